"""Rewards in several processes: the same floats, also where a group is split between them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from posttrain.launch.environment import WORKER

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("reward_table.py")


def table(processes: int, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        WORKER: "1",
    }
    done = subprocess.run(
        [*command, str(TABLE), str(out)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["processes"] == processes
    return found["table"]


def test_one_and_two_processes_give_the_same_floats(tmp_path: Path) -> None:
    # 3 groups of 8 in shares of 12: the middle group is split.
    one, two = table(1, tmp_path / "one.json"), table(2, tmp_path / "two.json")
    assert one == two
    # By hand: gold 5 is met by the first answer alone; the endless one is a number that is still to be calculated
    # where a number is asked, and has no verdict where a formula is.
    assert one["accuracy"][:8] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert one["accuracy"][8:16] == [0, 1, 0, 0, 0, 1, 0, 0]
    assert one["accuracy"][16:] == [0, 0, 1, None, 0, 0, 0, 0]
    # Lengths 3 to 10 in each group: the right answer at place 2 of the last has 0.5 - (5 - 3) / 7.
    assert one["length"][18] == 0.5 - 2 / 7
    assert one["length"][19] is None
