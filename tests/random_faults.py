"""Random faults over short runs of prepare, sft and grpo: nothing lost, nothing left running; `make random-faults`.

A run is killed, stopped for a while, has its disk full, or its scratch or all of `.posttrain` removed, at a random
moment, again and again until it is done. Then its bytes are those of a run that nothing happened to, what the other
stages made is as it was, and no process and no scratch is left. Exits with 1 if one of these does not hold.

    python -m tests.random_faults [--minutes 120] [--seed 1]
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from posttrain.outputs.manifest import sha256
from tests.forks import Run, context, hashes, workspace
from tests.processes import processes, wait

STAGES = ("prepare", "sft", "grpo")
FINE = {0, 2, 75, -signal.SIGKILL}
FAULTS_AT_MOST = 4


def kill(run: Run, root: Path) -> None:
    run.signal(signal.SIGKILL)


def stop_and_continue(run: Run, root: Path) -> None:
    run.signal(signal.SIGSTOP)
    time.sleep(0.5)
    run.signal(signal.SIGCONT)


def full_disk(run: Run, root: Path) -> None:
    for process in run.processes:
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))


def removed_scratch(run: Run, root: Path) -> None:
    shutil.rmtree(root / ".posttrain/unpublished", ignore_errors=True)


def removed_workplace(run: Run, root: Path) -> None:
    for path in (root / ".posttrain").glob("[a-z]*/"):
        shutil.rmtree(path, ignore_errors=True)


FAULTS: tuple[Callable[[Run, Path], None], ...] = (
    kill,
    stop_and_continue,
    full_disk,
    removed_scratch,
    removed_workplace,
)


def everything(root: Path) -> dict[str, str]:
    """Of prepare, `hashes` looks for a folder with the stage's name; its own is data/prepared."""
    files = [path for path in (root / "data/prepared").iterdir() if path.is_file()]
    data = {str(path.relative_to(root)): sha256(path) for path in files}
    return data | hashes(root, "sft") | hashes(root, "grpo")


def one(forks: Any, root: Path, stage: str, draw: random.Random, seconds: float, told: Counter[str]) -> None:
    """Run a stage to its end under a few faults. Raises: AssertionError if it ends in a way that it must not"""
    for _ in range(draw.randint(1, FAULTS_AT_MOST)):
        run, fault = Run(forks, root, stage), draw.choice(FAULTS)
        moment = time.monotonic() + draw.uniform(0, seconds)
        while run.alive() and time.monotonic() < moment:
            time.sleep(0.005)
        if run.alive():
            fault(run, root)
            told[fault.__name__] += 1
        code = run.wait()
        told[f"exit {code}"] += 1
        assert code in FINE, f"{fault.__name__}: exit {code}\n{run.output()}"
        assert "Traceback" not in run.output(), f"{fault.__name__}\n{run.output()}"
    last = Run(forks, root, stage)
    assert last.wait() == 0, last.output()


def series(minutes: float, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    forks, draw, told, wrong = context(), random.Random(seed), Counter[str](), []
    root = folder / "project"
    root.mkdir()
    workspace(root, {"launch": {"checkpoint_every_s": 0}})
    seconds, deadline = dict[str, float](), time.monotonic() + 60 * minutes
    for stage in STAGES:
        began, run = time.monotonic(), Run(forks, root, stage)
        assert run.wait() == 0, run.output()
        seconds[stage] = time.monotonic() - began
    expected = everything(root)
    others = set(processes(root))
    while time.monotonic() < deadline:
        stage = draw.choice(STAGES)
        try:
            one(forks, root, stage, draw, seconds[stage], told)
            assert everything(root) == expected, "other bytes"
            wait(lambda: not set(processes(root)) - others, 15)
            left = [str(path.relative_to(root)) for path in root.rglob("*.unpublished")]
            assert not left, f"left: {left}"
        except AssertionError as error:
            wrong.append(f"{stage}: {error}")
            print(f"wrong | {wrong[-1]}", flush=True)
        told["runs"] += 1
        if told["runs"] % 10 == 0:
            print(summary(told, wrong), flush=True)
    return told, wrong


def summary(told: Counter[str], wrong: list[str]) -> str:
    counts = ", ".join(f"{name} {number}" for name, number in sorted(told.items()) if name != "runs")
    return f"faults | {told['runs']} runs | {counts} | {len(wrong)} wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    with tempfile.TemporaryDirectory(prefix="posttrain-faults-") as folder:
        told, wrong = series(given.minutes, given.seed, Path(folder))
    print(f"{summary(told, wrong)} | {given.minutes:g} minutes, seed {given.seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
