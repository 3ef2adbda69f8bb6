"""What travels between clones of the project so that a stage can run in any: entries of dvc.lock and small text files.

Reads   dvc.yaml, dvc.lock, params.yaml, the outs that DVC does not cache; git's HEAD
Writes  the same, and outs from the DVC remote; a DVC experiment

Code travels by git, data and models by the DVC remote. A receipt is plain data; flows/agents.py carries it. It comes
over the network, so what it may write is what dvc.yaml names.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from ruamel.yaml import YAML

from flows.stage_run import TAIL_LINES
from stages.errors import InputError
from stages.paths import GRAPH, PARAMS

LOCK = Path("dvc.lock")
MISSING = ("deleted", "not in cache")

Say = Callable[[str], None]


class Receipt(TypedDict):
    """What a run of some stages adds to a clone: their entries in dvc.lock, and files by their path."""

    lock: dict[str, Any]
    files: dict[str, str]


# ---------------------------------------------------------------------------------------------------------------------
# dvc.yaml and dvc.lock


def graph(root: Path) -> dict[str, Any]:
    return read(root / GRAPH)


def locked(root: Path) -> dict[str, Any]:
    """The entries of dvc.lock by stage; none if nothing ever ran here."""
    return read(root / LOCK) if (root / LOCK).exists() else {}


def read(path: Path) -> dict[str, Any]:
    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(path)["stages"]
    return stages


def outs(stage: dict[str, Any]) -> dict[str, bool]:
    """The outs of a stage of dvc.yaml, and whether DVC caches them: what it does not, `dvc push` leaves behind."""
    found = {}
    for item in (item for kind in ("outs", "metrics", "plots") for item in stage.get(kind, [])):
        path, options = next(iter(item.items())) if isinstance(item, dict) else (item, None)
        found[path] = (options or {}).get("cache", True)
    return found


def small_files(root: Path) -> list[str]:
    return [path for stage in graph(root).values() for path, cached in outs(stage).items() if not cached]


def inputs(stage: str, root: Path) -> dict[str, str]:
    """Those of the stage's deps that other stages make and DVC caches, and which stage makes each."""
    stages = graph(root)
    made = {out: name for name, other in stages.items() for out, cached in outs(other).items() if cached}
    return {dep: made[dep] for dep in stages[stage].get("deps", []) if dep in made}


# ---------------------------------------------------------------------------------------------------------------------
# Giving and taking


def whole(root: Path) -> Receipt:
    """All that a clone has: what a run starts from."""
    return {"lock": locked(root), "files": texts([str(PARAMS), *small_files(root)], root)}


def of_stage(stage: str, root: Path) -> Receipt:
    """What a stage that has just been brought up to date adds."""
    small = [path for path, cached in outs(graph(root)[stage]).items() if not cached]
    return {"lock": {stage: locked(root)[stage]}, "files": texts(small, root)}


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


def fetch(stage: str, root: Path, say: Say) -> None:
    """Have here what the stage needs; nothing, if it has not changed since its entry in dvc.lock."""
    makers = inputs(stage, root)
    status = changes([*dict.fromkeys([*makers.values(), stage])], root)
    foreign(status, root)
    if makers and runs(stage, status, root):
        dvc(["pull", *makers], root, say)


def changes(stages: list[str], root: Path) -> dict[str, dict[str, Any]]:
    """What `dvc status` holds against each stage: `{"sft": {"changed deps": {"data/prepared": "deleted"}}}`."""
    found: dict[str, list[Any]] = json.loads(dvc(["status", "--json", *stages], root, None))
    pairs = {name: [item if isinstance(item, dict) else {item: {}} for item in items] for name, items in found.items()}
    return {name: {key: value for item in items for key, value in item.items()} for name, items in pairs.items()}


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
    makers = inputs(stage, root)
    had = {dep["path"]: dep.get("md5") for dep in entries[stage].get("deps", [])}
    made = {out["path"]: out.get("md5") for name in makers.values() for out in entries.get(name, {}).get("outs", [])}
    changed = status.get(stage, {}).get("changed deps", {})
    return any(had.get(dep) != made.get(dep) for dep in makers) or any(
        dep not in makers or change not in MISSING for dep, change in changed.items()
    )


def push(stage: str, root: Path, say: Say) -> None:
    dvc(["push", stage], root, say)


def dvc(arguments: list[str], root: Path, say: Say | None) -> str:
    """What a command of DVC prints, also handed to `say` line by line.

    Raises: InputError with its last lines, if it fails
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    heard: list[str] = []
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                heard.append(line)
                if say and line.strip():
                    say(line.rstrip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise InputError(
            f"dvc {' '.join(arguments)}, in {root}",
            got="\n          ".join(line.rstrip() for line in deque(heard, TAIL_LINES)),
            wanted="a DVC remote that this machine reaches and that has what earlier stages made",
            do="`dvc remote list` here; `dvc push` where a stage ran without Prefect",
        )
    return "".join(heard)


# ---------------------------------------------------------------------------------------------------------------------
# git


def git(*arguments: str, root: Path, **environment: str) -> str:
    command = ["git", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=root, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def commit(root: Path) -> str:
    """The commit whose code is in the folder.

    Raises: InputError if tracked code differs from it: only commits travel.
    """
    data = {str(PARAMS), str(LOCK), *small_files(root)}
    changed = git("diff", "--name-only", "HEAD", root=root).splitlines()
    if code := [path for path in changed if path not in data]:
        raise InputError(
            str(root), got=f"uncommitted changes of {', '.join(code)}", wanted="a commit", do="commit or stash them"
        )
    return git("rev-parse", "HEAD", root=root)


def record(name: str, root: Path) -> None:
    """A DVC experiment of what the clone now has, in `dvc exp show` under the name; an older one of it is replaced.

    The commit that `dvc exp save` would make. That command refuses a workspace without the models, and this one may
    be without them; `dvc pull` brings them.
    """
    who = {f"GIT_{role}_{what}": "posttrain" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    head = git("rev-parse", "HEAD", root=root)
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git("read-tree", "HEAD", root=root, **index)
        paths = [path for path in (str(PARAMS), str(LOCK), *small_files(root)) if (root / path).is_file()]
        git("add", "--force", "--", *paths, root=root, **index)
        tree = git("write-tree", root=root, **index)
    saved = git("commit-tree", tree, "-p", head, "-m", f"posttrain {name}", root=root, **who)
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", saved, root=root)
