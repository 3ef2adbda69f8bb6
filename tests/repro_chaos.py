"""Kills a whole `dvc repro` with SIGKILL at random moments of all five stages, compares the bytes; `make chaos-repro`.

A recipe of seconds runs once undisturbed. In a second copy of the project the same command is killed again and again:
half the time all of its processes at once, half the time those of the stage. Of five kills one comes whenever, the
others while a checkpoint is written or while the stage publishes. Then it runs to its end. Exits with 1 if a byte of an
out, a metric or a plot differs, or a process is left.

    python -m tests.repro_chaos [--processes 1 2] [--kills 32] [--seed 1] [--seconds 0]
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML

from posttrain.outputs.manifest import SUFFIX
from tests.clone import copy_project
from tests.pipeline.conftest import environment, initialised, outs
from tests.processes import processes, wait

STAGES = ("prepare", "sft", "grpo", "evaluate", "report")
TRAINED = ("sft", "grpo")
STEPS = 30
PATIENCE_S = 300
LOOK_S = 1.0
PLACES = {
    "prepare": ("data/.prepared",),
    "sft": ("models/.sft", "results/.sft"),
    "grpo": ("models/.grpo", "results/.grpo"),
    "evaluate": ("results/.evaluate",),
    "report": ("results/.report",),
}
"""Where a stage's hidden folders lie while it publishes."""


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    """By stage."""
    publishing: int = 0
    in_checkpoint: int = 0
    went_on: int = 0


class Repro:
    """`dvc repro` in a copy of the project, and all that comes of it, which has a mark in its environment."""

    def __init__(self, root: Path) -> None:
        self.root, self.mark = root, f"POSTTRAIN_TEST_RUN={uuid.uuid4().hex}"
        self.log = root.with_name(f"{root.name}.log")
        self.known: dict[int, str] = {}
        """Processes of the stage, looked up before the moment comes: to find them takes longer than a checkpoint."""
        with self.log.open("w") as log:
            name, value = self.mark.split("=")
            env = environment(root, **{name: value, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"})
            self.dvc = subprocess.Popen(["dvc", "repro"], cwd=root, env=env, stdout=log, stderr=subprocess.STDOUT)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def stage(self) -> str | None:
        """The stage that runs."""
        _, found, rest = self.output().rpartition("Running stage '")
        return rest.partition("'")[0] if found else None

    def alive(self) -> bool:
        return self.dvc.poll() is None

    def kill(self, stage: str | None) -> bool:
        """SIGKILL to all processes, or to those of a stage; whether DVC still ran."""
        if not self.alive():
            return False
        for pid in [*self.known, *processes(mark=self.mark, command=f"posttrain {stage}" if stage else "")]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if stage is None:
            self.dvc.kill()
        self.dvc.wait(PATIENCE_S)
        wait(lambda: not processes(mark=self.mark), 30)
        return True

    def finish(self) -> None:
        assert self.dvc.wait(PATIENCE_S) == 0, self.output()
        wait(lambda: not processes(mark=self.mark), 30)


def project(root: Path, processes: int) -> Path:
    root.mkdir()
    copy_project(root)
    initialised(root)
    yaml = YAML()
    params = yaml.load(root / "params.yaml")
    params["launch"]["processes"] = processes
    for stage in TRAINED:
        params[stage]["max_steps"] = STEPS
    yaml.dump(params, root / "params.yaml")
    return root


def publishing(root: Path, stage: str) -> bool:
    return any(path for place in PLACES[stage] for path in root.glob(f"{place}*{SUFFIX}"))


def in_checkpoint(root: Path, stage: str) -> bool:
    return any(root.glob(f".posttrain/unpublished/{stage}-*/trainer/checkpoint-*"))


def plan(kills: int, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Stages in their order, each with a like number of kills, and the kind of each."""
    for number in range(kills):
        stage = STAGES[number * len(STAGES) // kills]
        middle = "checkpoint" if stage in TRAINED else "publishing"
        yield stage, draw.choice(("whenever", middle, middle, "publishing", "publishing"))


def await_moment(run: Repro, stage: str, kind: str, draw: random.Random) -> None:
    """Wait for the moment; or for the end, where it was missed."""
    reached = STAGES.index(stage)
    while run.alive() and ((now := run.stage()) is None or STAGES.index(now) < reached):
        time.sleep(0.02)
    if kind == "whenever":
        time.sleep(draw.uniform(0, 12))
        return
    seen, looked = publishing if kind == "publishing" else in_checkpoint, 0.0
    while run.alive() and not seen(run.root, stage) and run.stage() == stage:
        if time.monotonic() - looked > LOOK_S:
            run.known, looked = processes(mark=run.mark, command=stage), time.monotonic()
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.004))


def torment(root: Path, kills: int, draw: random.Random, deadline: float) -> Tally:
    """Start and kill until the plan is used up, then let it end. A kill that comes too late hits the next stage."""
    tally = Tally()
    for stage, kind in plan(kills, draw):
        if time.monotonic() > deadline:
            break
        run = Repro(root)
        await_moment(run, stage, kind, draw)
        hit = run.stage()
        if hit is None or not run.kill(draw.choice((None, hit))):
            run.finish()  # it had come to its end, so the rest begins anew
            again(root)
            continue
        tally.kills[hit] += 1
        tally.publishing += publishing(root, hit)
        tally.in_checkpoint += in_checkpoint(root, hit)
        tally.went_on += "goes on after step" in run.output()
        print(f"{sum(tally.kills.values()):3} | {hit} | {kind}", flush=True)
    last = Repro(root)
    last.finish()
    tally.went_on += "goes on after step" in last.output()
    return tally


def again(root: Path) -> None:
    """Forget the last stage, so that it runs again."""
    shutil.rmtree(root / "results/report", ignore_errors=True)
    shutil.rmtree(root / ".dvc/cache/runs", ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kills", type=int, default=32, help="in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="kill no more after so many for each; 0: no limit")
    given = parser.parse_args()
    draw, right = random.Random(given.seed), True
    for count in given.processes:
        with tempfile.TemporaryDirectory(prefix="posttrain-chaos-") as folder:
            reference = project(Path(folder) / "never", count)
            Repro(reference).finish()
            root = project(Path(folder) / "killed", count)
            began = time.monotonic()
            limit = began + given.seconds if given.seconds else float("inf")
            tally = torment(root, given.kills // len(given.processes), draw, limit)
            equal = outs(root) == outs(reference)
            right &= equal
            print(
                f"chaos | dvc repro in {count} process(es), seed {given.seed} | {sum(tally.kills.values())} SIGKILLs: "
                f"{', '.join(f'{stage} {number}' for stage, number in tally.kills.items())} | {tally.publishing} in "
                f"publishing, {tally.in_checkpoint} in a checkpoint's writing, {tally.went_on} runs went on | "
                f"{len(outs(root))} files {'equal' if equal else 'DIFFERENT'} | {time.monotonic() - began:.0f} s",
                flush=True,
            )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
