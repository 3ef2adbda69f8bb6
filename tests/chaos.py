"""Kills sft and grpo with SIGKILL at random moments until they are done, and compares the bytes; `make chaos`.

Bounded and seeded: the moments are drawn from a seed and the number of kills is fixed. Half the runs write a checkpoint
after every step, half only now and then. Exits with 1 if a byte differs.

    python -m tests.chaos [--kills 24] [--seed 1]
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.forks import Run, context, hashes, workspace

PLANS = (("sft", 1), ("grpo", 1), ("sft", 2), ("grpo", 2))
EVERY_S = (0, 0.1)
STEPS = 41


@dataclass
class Row:
    stage: str
    processes: int
    every_s: float
    kills: int = 0
    in_writing: int = 0
    resumed: int = 0
    equal: bool = False
    seconds: float = 0.0


def chaos(kills: int, seed: int, folder: Path) -> list[Row]:
    forks, draw = context(), random.Random(seed)
    base = folder / "base"
    base.mkdir()
    workspace(base, {"launch": {"checkpoint_every_s": 1e6}, "sft": {"max_steps": STEPS}, "grpo": {"max_steps": STEPS}})
    run_through(forks, base, "prepare", 1)
    references = {}
    for stage, processes in PLANS:
        references[stage, processes] = time_of(forks, base, folder / f"never-{stage}-{processes}", stage, processes)
        if processes == 1:
            shutil.copytree(folder / f"never-{stage}-1/models", base / "models", dirs_exist_ok=True)
    rows = []
    runs = [(*plan, every_s) for every_s in EVERY_S for plan in PLANS]
    for number, (stage, processes, every_s) in enumerate(runs):
        root = folder / f"chaos-{number}"
        shutil.copytree(base, root)
        shutil.rmtree(root / f"models/{stage}", ignore_errors=True)
        set_interval(root, every_s)
        share = kills // len(runs) + (number < kills % len(runs))
        row = Row(stage, processes, every_s)
        torment(forks, root, row, share, draw, references[stage, processes])
        row.equal = hashes(root, stage) == hashes(folder / f"never-{stage}-{processes}", stage)
        rows.append(row)
        print(line(row), flush=True)
    return rows


def run_through(forks: Any, root: Path, stage: str, processes: int) -> str:
    run = Run(forks, root, stage, processes)
    assert run.wait() == 0, run.output()
    return run.output()


def time_of(forks: Any, base: Path, root: Path, stage: str, processes: int) -> float:
    """Seconds of a run that nobody kills."""
    shutil.copytree(base, root)
    began = time.monotonic()
    run_through(forks, root, stage, processes)
    return time.monotonic() - began


def torment(forks: Any, root: Path, row: Row, kills: int, draw: random.Random, seconds: float) -> None:
    """Start and kill until the kills are used up, then let it end. A run that ends before its kill is begun again."""
    began = time.monotonic()
    while row.kills < kills:
        run = Run(forks, root, row.stage, row.processes)
        await_moment(run, root, row, 0.8 * STEPS * (row.kills + draw.random()) / kills, draw, seconds)
        if run.kill():
            row.kills += 1
            row.in_writing += writing(root, row.stage)
        else:
            shutil.rmtree(root / f"models/{row.stage}")
        row.resumed += "goes on after step" in run.output()
    row.resumed += "goes on after step" in run_through(forks, root, row.stage, row.processes)
    row.seconds = time.monotonic() - began


def await_moment(run: Run, root: Path, row: Row, step: float, draw: random.Random, seconds: float) -> None:
    """One kill in five comes whenever, so while it loads too; the others past a step, two of five in a checkpoint."""
    kind = draw.choice(("whenever", "training", "training", "writing", "writing"))
    if kind == "whenever":
        time.sleep(draw.uniform(0, 1) * seconds)
        return
    run.until(lambda: newest(root, row.stage) >= step)
    if kind == "writing":
        run.until(lambda: writing(root, row.stage))
        time.sleep(draw.uniform(0, 0.008))
    else:
        time.sleep(draw.uniform(0, 0.1))


def newest(root: Path, stage: str) -> int:
    return max((int(path.name[5:]) for path in root.glob(f".posttrain/checkpoints/{stage}/*/step-*")), default=0)


def writing(root: Path, stage: str) -> bool:
    return any(root.glob(f".posttrain/unpublished/{stage}-*/trainer/checkpoint-*"))


def set_interval(root: Path, every_s: float) -> None:
    yaml = YAML()
    params = yaml.load(root / "params.yaml")
    params["launch"]["checkpoint_every_s"] = every_s
    yaml.dump(params, root / "params.yaml")


HEAD = "stage  processes  checkpoint every  kills  in a checkpoint's writing  runs that went on  bytes      seconds"


def line(row: Row) -> str:
    every = f"{row.every_s} s" if row.every_s else "step"
    return (
        f"{row.stage:5}  {row.processes:9}  {every:>16}  {row.kills:5}  {row.in_writing:25}"
        f"  {row.resumed:17}  {'equal    ' if row.equal else 'DIFFERENT'}  {row.seconds:7.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    # Of the server's: what was killed could not give its semaphores back.
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    with tempfile.TemporaryDirectory(prefix="posttrain-chaos-") as folder:
        print(HEAD, flush=True)
        rows = chaos(arguments.kills, arguments.seed, Path(folder))
    kills, equal = sum(row.kills for row in rows), sum(row.equal for row in rows)
    print(f"chaos | seed {arguments.seed} | {kills} SIGKILLs | {equal} of {len(rows)} runs ended with equal bytes")
    return 0 if equal == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
