"""The flow `posttrain`: the stages of dvc.yaml, one Prefect task each.

Reads   dvc.yaml, results/evaluate/metrics.json
Writes  a table of what ran, as an artifact of the flow run; the stages write everything else
Run     python -m flows.pipeline [STAGE ...]; exit code 0, 1 if a stage failed, 2 for an unknown stage, 130 for Ctrl-C

Needs no server: without PREFECT_API_URL, Prefect starts one for the time of the flow. What runs and in which order is
said by dvc.yaml, what is up to date by DVC, and a stage that failed is repeated by running the flow again.
"""

import json
import logging
import signal
import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.stage_run import Outcome, StageRun, run_stage, stage_names
from stages.errors import InputError, PosttrainError
from stages.paths import EVALUATE_RESULTS

STATE_NAMES: dict[Outcome, str] = {"ran": "Completed", "unchanged": "Skipped", "restored": "Cached"}


@flow(name="posttrain")
def pipeline(stages: list[str] | None = None) -> list[StageRun]:
    """Bring the stages up to date in the order of dvc.yaml: all, or those asked for and nothing before them."""
    runs: list[StageRun] = []
    for stage in chosen(stages, stage_names(Path.cwd())):
        # Called, not submitted: Prefect cannot interrupt what runs in a thread.
        runs.append(stage_task(stage).result())
    create_markdown_artifact(summary(runs), key="posttrain", description="what ran, and what it came to")
    return runs


@task(task_run_name="{stage}", cache_policy=NO_CACHE)  # DVC alone decides what is up to date
def stage_task(stage: str) -> State[StageRun]:
    """One stage in the working directory; the name of the state says whether it had to run."""
    run = run_stage(stage, Path.cwd(), get_run_logger().info)
    return Completed(name=STATE_NAMES[run.outcome], message=f"{run.outcome}, {run.seconds:.0f} s", data=run)


def chosen(stages: list[str] | None, known: list[str]) -> list[str]:
    """The stages asked for, in the order they can run in.

    Raises: InputError if there are none, or one that dvc.yaml does not have.
    """
    if stages is None:
        return known
    if not stages or set(stages) - set(known):
        got = ", ".join(stages) or "no stage"
        raise InputError("stages", got=got, wanted=f"some of {', '.join(known)}", do="leave it out to run them all")
    return [stage for stage in known if stage in stages]


def summary(runs: list[StageRun]) -> str:
    """A Markdown table of the runs, and the evaluation if it is one of them: that of another run may be out of date."""
    rows = [f"| {run.stage} | {run.outcome} | {run.seconds:.0f} |" for run in runs]
    table = "\n".join(["| stage | outcome | seconds |", "|---|---|---:|", *rows])
    path = EVALUATE_RESULTS / "metrics.json"
    if not path.is_file() or all(run.stage != EVALUATE_RESULTS.name for run in runs):
        return table
    metrics = json.loads(path.read_text(encoding="utf-8"))
    before, after = metrics["sft"]["pass@1"], metrics["grpo"]["pass@1"]
    return f"{table}\n\n**{metrics['verdict']}**: pass@1 {before:.3f} after SFT, {after:.3f} after GRPO"


def start_server() -> None:
    """Prefect's temporary server, if it needs one, deaf to Ctrl-C.

    The terminal sends Ctrl-C to the server too, and a flow that finds it gone tries for a minute to report to it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by the server, which never unblocks it
    try:
        with get_client(sync_client=True):
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def main(arguments: list[str]) -> int:
    try:
        stages = chosen(arguments or None, stage_names(Path.cwd()))  # here too: the flow can say no only to a server
        start_server()
        runs = pipeline(stages)
    except PosttrainError as error:
        print(f"pipeline | {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pipeline | interrupted | next: the same command, which repeats nothing that was done", file=sys.stderr)
        return 130
    finally:
        logging.getLogger("prefect").setLevel(logging.WARNING)  # the server's farewell would stand below our last line
    print(f"pipeline | {', '.join(f'{run.stage} {run.outcome}' for run in runs)} | next: posttrain gate")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
