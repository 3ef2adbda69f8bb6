"""The flow `posttrain`: the stages of dvc.yaml, one Prefect task each.

Reads   dvc.yaml; with a recipe or overrides also params.yaml and recipes/; results/ for what it shows
Writes  artifacts of the flow run; the stages write everything else
Run     python -m flows.pipeline [STAGE ...] [--recipe NAME] [--set KEY=VALUE ...] [--force [STAGE ...]]

Exit codes: 0, 1 if a stage failed, 2 for wrong input, 75 if a stage ran out of time, 130 for Ctrl-C.

Needs no server: without PREFECT_API_URL, Prefect starts one for the time of the flow. What runs and in which order is
said by dvc.yaml, what is up to date by DVC, and a stage that failed is repeated by running the flow again.
"""

import argparse
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.artifacts import show, with_progress
from flows.lock import held
from flows.stage_run import COOKIE, Outcome, StageFailed, StageRun, marked, run_stage, start_watchdog
from flows.told import failed, told
from flows.worktree import Workspace, workspace
from posttrain.cli import positive
from posttrain.errors import EXIT_RETRY, InputError, PosttrainError
from posttrain.graph import graph, stage_names
from posttrain.params import plain_yaml
from posttrain.params.file import read_yaml
from posttrain.params.recipes import overlaid
from posttrain.paths import LOCKS, PARAMS, REPORT, REPORTS
from posttrain.terminal import harmless, harmless_output

Setting = bool | int | float | str | list[Any] | dict[str, Any] | None

STATE_NAMES: dict[Outcome, str] = {"ran": "Completed", "unchanged": "Skipped", "restored": "Cached"}
RETRY_DELAYS_S = [1.0, 30.0, 120.0]
WATCHDOGS: list["subprocess.Popen[bytes]"] = []
"""Held until this process ends, which is what they wait for."""


@flow(name="posttrain")
@told
def pipeline(
    stages: list[str] | None = None,
    recipe: str | None = None,
    set: dict[str, Setting] | None = None,
    force: bool | list[str] = False,
    timeout_s: float | None = None,
) -> list[StageRun]:
    """Bring the stages up to date in the order of dvc.yaml: all, or those asked for and nothing before them.

    Args:
        stages: Some of those of dvc.yaml.
        recipe: One of recipes/, whose values stand in place of those of params.yaml.
        set: Other params, such as `{"grpo.num_generations": 8}`. They and a recipe get a worktree of their own.
        force: Stages to run although nothing changed, or true for all.
        timeout_s: Seconds after which a stage is ended and told as TimedOut.
    """
    root, log = Path.cwd(), get_run_logger()
    names = chosen(stages, stage_names(root))
    forced = forced_of(force, names)
    with workspace(root, recipe, set or {}, names, log.info) as space:
        timed = stage_task.with_options(timeout_seconds=timeout_s)
        runs: list[StageRun] = []
        for stage in names:
            with only_once(stage, root, space, log):
                # Called, not submitted: Prefect cannot interrupt what runs in a thread.
                runs.append(timed(stage, space.root, ["--force"] if stage in forced else []).result())
        show(runs, space.root, report_of(runs, root, space))
    return runs


def worth_repeating(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether the stage's command said that the same command goes on or succeeds: it was stopped, or is running."""
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, StageFailed) and failure.code == EXIT_RETRY


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,  # DVC alone decides what is up to date
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=worth_repeating,
)
def stage_task(stage: str, root: Path | None = None, options: Sequence[str] = ()) -> State[StageRun]:
    """One stage in a folder, the working directory if none is given; the state's name says whether it had to run."""
    try:
        run = run_stage(stage, root or Path.cwd(), with_progress(stage, get_run_logger()), options)
    except PosttrainError as error:
        if isinstance(error, StageFailed) and error.code == EXIT_RETRY:
            raise  # Prefect repeats what raises, and no state that is returned
        return failed(error)
    return Completed(name=STATE_NAMES[run.outcome], message=f"{run.outcome}, {run.seconds:.0f} s", data=run)


def chosen(stages: list[str] | None, known: list[str], where: str = "stages") -> list[str]:
    """The stages asked for, in the order they can run in.

    Raises: InputError if there are none, or one that dvc.yaml does not have.
    """
    if stages is None:
        return known
    if not stages or set(stages) - set(known):
        got = ", ".join(stages) or "no stage"
        raise InputError(where, got=got, wanted=f"some of {', '.join(known)}", do="leave it out to run them all")
    return [stage for stage in known if stage in stages]


def forced_of(force: bool | list[str], names: list[str]) -> list[str]:
    if isinstance(force, bool):
        return names if force else []
    return chosen(force, names, "force")


def only_once(stage: str, root: Path, space: Workspace, log: Any) -> AbstractContextManager[None]:
    """Of runs in worktrees that would do the same work at one time, one does it; DVC's cache then has it for others."""
    if space.experiment is None:
        return nullcontext()
    return held(root / LOCKS / f"{stage}-{work(stage, space.root)}.lock", log.info)


def work(stage: str, root: Path) -> str:
    """A hash of what this stage and all before it take from params.yaml; the rest is the same for all worktrees."""
    stages, params = graph(root), read_yaml(root / PARAMS)
    upto = list(stages)[: list(stages).index(stage) + 1]
    sections = {section for name in upto for section in stages[name].get("params", [])}
    taken = {section: params.get(section) for section in sorted(sections)}
    return hashlib.sha256(json.dumps(taken, sort_keys=True).encode()).hexdigest()[:16]


def report_of(runs: Sequence[StageRun], root: Path, space: Workspace) -> Path | None:
    """Where the report will be found, if it is of this run."""
    if all(run.stage != REPORT.stem for run in runs) or not (space.root / REPORT).exists():
        return None
    return root / (REPORT if space.experiment is None else REPORTS / f"{space.experiment}.html")


def start_server() -> None:
    """Prefect's temporary server, if it needs one, deaf to Ctrl-C and gone when this process is.

    The terminal sends Ctrl-C to the server too, and a flow that finds it gone tries for a minute to report to it.
    Prefect stops the server when Python ends, which SIGTERM and SIGKILL do not let it.
    """
    cookie = f"server of {os.getpid()}:{uuid.uuid4().hex}"
    os.environ[COOKIE] = cookie  # inherited by the server, as is the mask, which it never unblocks
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True):
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        del os.environ[COOKIE]
    if marked(cookie):
        WATCHDOGS.append(start_watchdog(cookie))


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="The stages as a Prefect flow.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="all if none is given")
    parser.add_argument("--recipe", metavar="NAME", help="one of recipes/, in place of the values of params.yaml")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="grpo.beta=0.02")
    parser.add_argument("--force", nargs="*", metavar="STAGE", help="run although unchanged; all if none is named")
    parser.add_argument("--timeout-s", type=positive(float), metavar="SECONDS", help="of one stage")
    return parser.parse_args(argv)


def setting(text: str) -> tuple[str, Any]:
    """`grpo.beta=0.02` as a key and a value, which is YAML."""
    key, equals, value = text.partition("=")
    if key and equals:
        return key, plain_yaml.parse(value, text[:100], "write the value as YAML")
    raise InputError(text, got="no KEY=VALUE", wanted="such as grpo.num_generations=8", do="write the value as YAML")


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Raises: InputError if a key has two values"""
    pairs = [setting(text) for text in texts]
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise InputError("--set", got=f"{twice[0]} more than once", wanted="one value", do="leave the others out")
    return dict(pairs)


def parameters_of(argv: Sequence[str]) -> dict[str, Any]:
    """Those of the flow, checked here too: the flow can say no only to a server.

    Raises: InputError
    """
    given = arguments_of(argv)
    stages = chosen(given.stages or None, stage_names(Path.cwd()))
    changes = settings(given.set)
    if given.recipe or changes:
        overlaid(given.recipe, changes)
    force = given.force or given.force is not None
    forced_of(force, stages)
    return {"stages": stages, "recipe": given.recipe, "set": changes, "force": force, "timeout_s": given.timeout_s}


def main(argv: Sequence[str]) -> int:
    try:
        with harmless_output():
            parameters = parameters_of(argv)
        start_server()
        runs = pipeline(**parameters)
    except PosttrainError as error:
        print(harmless(f"pipeline | {error}"), file=sys.stderr)
        return error.exit_code
    except TimeoutError:
        limit = parameters["timeout_s"]
        print(f"pipeline | a stage took more than {limit:g} s | next: the same command, which goes on", file=sys.stderr)
        return EXIT_RETRY
    except KeyboardInterrupt:
        print("pipeline | interrupted | next: the same command, which repeats nothing that was done", file=sys.stderr)
        return 130
    finally:
        logging.getLogger("prefect").setLevel(logging.WARNING)  # the server's farewell would stand below our last line
    after = "dvc exp show" if parameters["recipe"] or parameters["set"] else "posttrain gate"
    print(f"pipeline | {', '.join(f'{run.stage} {run.outcome}' for run in runs)} | next: {after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
