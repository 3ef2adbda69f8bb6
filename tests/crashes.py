"""Kills and cancels what runs a pipeline on agents, and looks at what is left; `make crashes`, 20 minutes.

A chain of three stages runs until its second, sft, trains with a worker in a session of its own and holds the one GPU
that the machine seems to have. Then something happens to one of the processes. What is left, and what the same command
comes to afterwards, is a row of the table.

    python -m tests.crashes [NAME ...]
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.agents import REPOSITORY, STAGE_MARK, TERMINAL, Site, path_with_gpus, site, trivial_project
from tests.processes import processes, wait

PATIENCE_S = 240

Event = Callable[[Site, str], None]


@dataclass
class Row:
    """What came of one event: states by name, seconds since the event."""

    event: str
    gone_s: float | None
    """Until no process of the stage was left; None where the stage went on."""
    sft: str
    sft_s: float
    chain: str
    chain_s: float
    slot_s: float
    """Until the GPU was nobody's again."""
    clean: bool
    """DVC holds no lock."""
    again: str
    """The chain's state after the same command."""

    def __str__(self) -> str:
        gone = "goes on" if self.gone_s is None else f"{self.gone_s:.1f}"
        sft, chain = f"{self.sft} {self.sft_s:.0f}", f"{self.chain} {self.chain_s:.0f}"
        lock = "free" if self.clean else "held"
        return f"| {self.event} | {gone} | {sft} | {chain} | {self.slot_s:.0f} | {lock} | {self.again} |"


HEADER = """\
| event | stage ended, s | flow run of sft, s | the chain's | GPU free, s | DVC's locks | the same command again |
|---|---|---|---|---|---|---|"""


def cancel_chain(site: Site, run: str) -> None:
    site.cancel(run)


def cancel_stage(site: Site, run: str) -> None:
    site.cancel(site.children(run)["sft"]["id"])


def cancel_stubborn_stage(site: Site, run: str) -> None:
    """Its worker ignores SIGTERM."""
    cancel_stage(site, run)


def kill_stage_flow(site: Site, run: str) -> None:
    os.kill(site.flow_process(site.children(run)["sft"]["id"]), signal.SIGKILL)


def kill_chain_flow(site: Site, run: str) -> None:
    os.kill(site.flow_process(run), signal.SIGKILL)


def kill_worker(site: Site, run: str) -> None:
    site.stop("gpu", signal.SIGKILL)


def terminate_worker(site: Site, run: str) -> None:
    site.stop("gpu", signal.SIGTERM)


def kill_worker_and_flow(site: Site, run: str) -> None:
    """As when the machine is switched off: nobody is left to report."""
    flow = site.flow_process(site.children(run)["sft"]["id"])
    site.stop("gpu", signal.SIGKILL)
    with suppress(ProcessLookupError):  # it may have died with its worker
        os.kill(flow, signal.SIGKILL)


def kill_server(site: Site, run: str) -> None:
    site.stop("server", signal.SIGKILL)
    time.sleep(10)
    site.start_server()


def kill_dvc(site: Site, run: str) -> None:
    for pid in processes(site.clone("gpu"), STAGE_MARK, "repro"):
        os.kill(pid, signal.SIGKILL)


def kill_training(site: Site, run: str) -> None:
    for pid in processes(site.clone("gpu"), STAGE_MARK, "stage.py"):
        with suppress(ProcessLookupError):  # the shell in front of it goes with it
            os.kill(pid, signal.SIGKILL)


EVENTS: dict[str, Event] = {
    "cancel the stage": cancel_stage,
    "cancel a stage whose worker ignores SIGTERM": cancel_stubborn_stage,
    "cancel the chain": cancel_chain,
    "SIGKILL of the training": kill_training,
    "SIGKILL of dvc": kill_dvc,
    "SIGKILL of the stage's flow": kill_stage_flow,
    "SIGKILL of the chain's flow": kill_chain_flow,
    "SIGKILL of the server, started again after 10 s": kill_server,
    "SIGTERM of the GPU agent's worker": terminate_worker,
    "SIGKILL of the GPU agent's worker": kill_worker,
    "SIGKILL of the GPU agent's worker and flow": kill_worker_and_flow,
}
SURVIVED = {kill_server, kill_chain_flow, kill_worker}


def crash(site: Site, name: str, seed: int) -> Row:
    """Let the event happen while sft trains, and watch. A new seed is something for every stage to do."""
    event, gpu = EVENTS[name], site.clone("gpu")
    (gpu / "slow").touch()
    if event is cancel_stubborn_stage:
        (gpu / "stubborn").touch()
    run = site.submit(stages=["prepare", "sft", "report"], set={"seed": seed})
    try:
        wait(lambda: processes(gpu, STAGE_MARK, "time.sleep(0.05)"), PATIENCE_S)
    except AssertionError:
        raise AssertionError(f"sft did not start: {site.flow_run(run)['state']}, {site.states(run)}") from None
    time.sleep(1.0)  # the worker has to have come to its loop
    sft = site.children(run)["sft"]["id"]
    began = time.monotonic()
    event(site, run)
    gone = None
    if event not in SURVIVED:
        wait(lambda: not site.stage_processes(), 60)
        gone = time.monotonic() - began
    (gpu / "slow").unlink()
    ends: dict[str, float] = {}
    wait(lambda: all_over(site, {"sft": sft, "chain": run}, ends, began), PATIENCE_S, 0.2)
    clean = not site.locks("gpu")
    (gpu / "stubborn").unlink(missing_ok=True)
    if "gpu" not in site.processes:
        site.start_worker("gpu")
    again = site.over(site.submit(set={"seed": seed}), PATIENCE_S)["state"]
    states = {which: site.flow_run(number)["state"]["name"] for which, number in (("sft", sft), ("chain", run))}
    return Row(
        *(name, gone, states["sft"], ends["sft"], states["chain"], ends["chain"]),
        *(ends["slot"], clean, f"{again['name']}: {again['message']}"),
    )


def all_over(site: Site, runs: dict[str, str], ends: dict[str, float], began: float) -> bool:
    """Note when each run is first seen to have ended, and when the GPU's slot was free."""
    for which, run in runs.items():
        if which not in ends and site.flow_run(run)["state"]["type"] in TERMINAL:
            ends[which] = time.monotonic() - began
    if "slot" not in ends and not site.slots():
        ends["slot"] = time.monotonic() - began
    return len(ends) == len(runs) + 1


def main(names: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        home, remote = trivial_project(root / "home"), {"url": str(root / "remote")}
        with site(root, home, remote, REPOSITORY, PATH=path_with_gpus(root, 1)) as made:
            made.run(REPOSITORY, "prefect", "automation", "create", "--from-file", "automations.yaml")
            print(HEADER, flush=True)
            rows = []
            for seed, name in enumerate(names or EVENTS):
                rows.append(crash(made, name, seed + 2))
                print(rows[-1], flush=True)
    return 0 if all(row.clean and row.again.startswith("Completed") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
