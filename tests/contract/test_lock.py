"""dvc.lock is of the commit that it is in, and DVC can restore each stage from an equal run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from posttrain.params.file import read_yaml

ROOT = Path(__file__).parents[2]


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def in_git(path: str) -> bool:
    return bool(output("git", "ls-files", "--", path))


def faults() -> list[str]:
    """What DVC finds changed since the runs of dvc.lock: commands, params, and of files those that git has."""
    status = json.loads(output(sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json"))
    return [f"{stage}: {fault}" for stage, items in status.items() for item in items for fault in of_item(item)]


def of_item(item: str | dict[str, dict[str, Any]]) -> list[str]:
    """One of what `dvc status` holds against a stage: `changed command`, or a kind of change with paths."""
    if isinstance(item, str):
        return [item]
    return [f"{kind}: {path} {how}" for kind, paths in item.items() for path, how in paths.items() if in_git(path)]


def test_the_lock_is_of_this_commit() -> None:
    """Data and models, which git does not have, need not be here."""
    found = faults()
    do = "commit dvc.lock after `posttrain relock` if only comments of code changed, after `make run` if more did"
    assert not found, "\n".join(["dvc.lock is not of the files that are here", *found, do])


def test_every_stage_enters_the_run_cache() -> None:
    """From which DVC restores a stage whose params were there before; it keeps no stage with such outs in it."""
    for word, stage in read_yaml(ROOT / "dvc.yaml")["stages"].items():
        assert stage["deps"], word
        assert stage["outs"], word
        options = [option for item in stage["outs"] if isinstance(item, dict) for option in next(iter(item.values()))]
        assert {"cache", "persist"}.isdisjoint(options), word
