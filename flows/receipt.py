"""What travels between clones of the project so that a stage can run in any: entries of dvc.lock and small text files.

Reads   dvc.yaml, dvc.lock, params.yaml, the outs that DVC does not cache
Writes  the last three, and outs from the DVC remote

Code travels by git, data and models by the DVC remote. A receipt is plain data; flows/agents.py carries it. It comes
over the network, so what it may write is what dvc.yaml names.
"""

import json
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from ruamel.yaml import YAML

from flows import command, stored
from flows.stage_run import TAIL_LINES, Outcome
from posttrain.errors import InputError
from posttrain.graph import graph, made_inputs, small_files
from posttrain.outputs.json_files import read_object
from posttrain.params import plain_yaml
from posttrain.paths import LOCK, PARAMS

MISSING = ("deleted", "not in cache")

Say = Callable[[str], None]


class Receipt(TypedDict):
    """What a run of some stages adds to a clone: their entries in dvc.lock, and files by their path."""

    lock: dict[str, Any]
    files: dict[str, str]


def locked(root: Path) -> dict[str, Any]:
    """The entries of dvc.lock by stage; none if nothing ever ran here."""
    if not (root / LOCK).exists():
        return {}
    content = plain_yaml.read(root / LOCK, "git checkout dvc.lock")
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict):
        raise InputError(str(LOCK), got="no `stages`", wanted="what DVC wrote", do="git checkout dvc.lock")
    return stages


# ---------------------------------------------------------------------------------------------------------------------
# Giving and taking


def whole(root: Path) -> Receipt:
    """All that a clone has: what a run starts from."""
    return {"lock": locked(root), "files": texts([str(PARAMS), *small_files(root)], root)}


def of_stage(stage: str, root: Path) -> Receipt:
    """What a stage that has just been brought up to date adds."""
    return {"lock": {stage: locked(root)[stage]}, "files": texts(small_files(root, [stage]), root)}


def texts(paths: list[str], root: Path) -> dict[str, str]:
    return {path: (root / path).read_bytes().decode() for path in paths if (root / path).is_file()}


def merged(receipts: list[Receipt]) -> Receipt:
    """One receipt for all, the later over the earlier."""
    whole: Receipt = {"lock": {}, "files": {}}
    for receipt in receipts:
        whole["lock"] |= receipt["lock"]
        whole["files"] |= receipt["files"]
    return whole


def take(receipt: Receipt, root: Path) -> None:
    """Make dvc.lock say what the receipt does and nothing else, and put its files into their places.

    Raises: InputError for a stage or a path that dvc.yaml does not name
    """
    stages, allowed = graph(root), {str(PARAMS), *small_files(root)}
    for name in (*(receipt["lock"].keys() - stages.keys()), *(receipt["files"].keys() - allowed)):
        raise InputError(
            "receipt of a stage", got=name, wanted="what dvc.yaml names", do="look who can write to the Prefect server"
        )
    for path, text in receipt["files"].items():
        write(root / path, text.encode())
    if receipt["lock"] != locked(root):
        write_lock({name: receipt["lock"][name] for name in stages if name in receipt["lock"]}, root)


def write_lock(entries: dict[str, Any], root: Path) -> None:
    yaml = YAML()
    yaml.default_flow_style = False
    with (root / f"{LOCK}.new").open("w", encoding="utf-8") as file:
        yaml.dump({"schema": "2.0", "stages": entries}, file)
    (root / f"{LOCK}.new").replace(root / LOCK)


def write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# ---------------------------------------------------------------------------------------------------------------------
# Data


@dataclass(frozen=True)
class Fetched:
    """What a stage's run goes on from."""

    options: list[str]
    """Of `dvc repro`: whether outs may be missing here, and whether the stage has to run."""
    in_remote: bool
    """Whether the DVC remote has the outs that dvc.lock told of before the run."""

    def to_push(self, outcome: Outcome) -> bool:
        return outcome != "unchanged" or not self.in_remote


def fetch(stage: str, root: Path, say: Say, force: bool = False) -> Fetched:
    """Have here what the stage needs; nothing, if it has not changed and what it made still is somewhere.

    Raises: InputError if there is no remote, before the stage works for nothing
    """
    drop_dead_locks(root)
    makers = made_inputs(stage, root)
    status = changes([*dict.fromkeys([*makers.values(), stage])], root)
    foreign(status, root)
    found = stored.where(stage, root)
    options = ["--force"] if force else ["--allow-missing"]
    if not force and stage in locked(root) and not (found.here or found.remote):
        say(f"what {stage} made is neither here nor in the DVC remote: it is made again")
        options = []
    if makers and (options != ["--allow-missing"] or runs(stage, status, root)):
        transfer(["pull", *makers], root, say)
    return Fetched(options, found.remote)


def changes(stages: list[str], root: Path) -> dict[str, dict[str, Any]]:
    """What `dvc status` holds against each stage: `{"sft": {"changed deps": {"data/prepared": "deleted"}}}`."""
    found: dict[str, list[Any]] = json.loads(command.dvc(root, "--wait-for-lock", "status", "--json", *stages))
    pairs = {name: [item if isinstance(item, dict) else {item: {}} for item in items] for name, items in found.items()}
    return {name: {key: value for item in items for key, value in item.items()} for name, items in pairs.items()}


def drop_dead_locks(root: Path) -> None:
    """Drop what DVC holds for processes that are gone. DVC does, unless another process has got the number since."""
    path = root / ".dvc/tmp/rwlock"
    if not path.exists() or not Path("/proc/self").exists():
        return
    try:
        held = read_object(path, f"remove {path}")
    except InputError:  # dvc was killed while it wrote the file, and refuses to go on with it
        held = {}
    write = {name: info for name, info in held.get("write", {}).items() if is_dvc(info["pid"])}
    read = {name: [info for info in infos if is_dvc(info["pid"])] for name, infos in held.get("read", {}).items()}
    living = {"write": write, "read": {name: infos for name, infos in read.items() if infos}}
    path.write_text(json.dumps({kind: names for kind, names in living.items() if names}), encoding="utf-8")


def is_dvc(pid: int) -> bool:
    try:
        return b"dvc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def foreign(status: dict[str, dict[str, Any]], root: Path) -> None:
    """Remove outs of other runs than dvc.lock tells of. DVC would take them for changes of this one."""
    for stage in status.keys() & locked(root).keys():
        for path, change in status[stage].get("changed outs", {}).items():
            if change not in MISSING:
                shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def runs(stage: str, status: dict[str, dict[str, Any]], root: Path) -> bool:
    """Whether the stage has to run. Of a dep that is not here, dvc.lock says whether it is the one the stage had.

    `dvc repro --single-item --allow-missing` does not look: to it, a missing dep is an unchanged one.
    """
    entries = locked(root)
    if stage not in entries or status.get(stage, {}).keys() - {"changed deps", "changed outs"}:
        return True
    makers = made_inputs(stage, root)
    had = {dep["path"]: dep.get("md5") for dep in entries[stage].get("deps", [])}
    made = {out["path"]: out.get("md5") for name in makers.values() for out in entries.get(name, {}).get("outs", [])}
    changed = status.get(stage, {}).get("changed deps", {})
    return any(had.get(dep) != made.get(dep) for dep in makers) or any(
        dep not in makers or change not in MISSING for dep, change in changed.items()
    )


def push(stage: str, root: Path, say: Say) -> None:
    transfer(["push", stage], root, say)


def transfer(arguments: list[str], root: Path, say: Say) -> None:
    """Run a command of DVC that moves data, handing what it prints to `say` line by line.

    Raises: InputError with its last lines, if it fails
    """
    program = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(program, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                tail.append(line.rstrip())
                say(line.rstrip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise InputError(
            f"dvc {' '.join(arguments)}, in {root}",
            got="\n          ".join(tail),
            wanted="a DVC remote that this machine reaches and that has what earlier stages made",
            do="`dvc remote list` here; where earlier stages made nothing yet, run the chain with them too",
        )
