"""Brings dvc.lock up to date with code whose comments and docstrings changed, so that no stage runs again for them.

Reads   dvc.yaml, dvc.lock; the code of stages in the working folder and in the commit that last wrote dvc.lock
Writes  dvc.lock: hash, size and number of files of code, nothing else; the same runs into DVC's run cache
Run     posttrain relock

DVC knows code by its bytes. What it does is the same as long as its syntax trees are (posttrain/outputs/facts.py). No
out has to be here: what they are is in dvc.lock already.
"""

import io
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import InputError, RetryError
from posttrain.graph import graph
from posttrain.outputs.facts import code_hash, is_code
from posttrain.outputs.run_log import git
from posttrain.params.file import read_yaml
from posttrain.params.plain_yaml import read_yaml_text
from posttrain.paths import GRAPH, LOCK

AGAIN = "dvc repro, which runs the stages that it touches"
SHORT = 10
"""Characters of a commit that a person reads."""


@dataclass(frozen=True)
class Code:
    """A file or folder of code: what dvc.lock says of it, and the hash of what each of its modules does."""

    entry: dict[str, Any]
    modules: dict[str, str]


Stale = dict[tuple[str, str], str]
"""The md5 in dvc.lock, by stage and path, where it is not that of the working folder."""


def relock() -> None:
    """Make dvc.lock say that its runs were of the code that is here.

    Raises: InputError naming the modules that do something else, RetryError while DVC is at work here.
    """
    recorded = locked()
    with repository() as repo:
        now = code(repo)
        stale = {key: md5 for key, md5 in recorded.items() if key[1] not in now or now[key[1]].entry["md5"] != md5}
        if not stale:
            print(f"relock | {LOCK} is of the code that is here")
            return
        commit = last_commit()
        with repo.switch(commit):
            require_same(code(repo), now, stale, commit)
        write({key: now[key[1]].entry for key in stale})
    stages = list(dict.fromkeys(stage for stage, _ in stale))
    with repository() as repo:
        remember(repo, stages)
    print(f"relock | {LOCK} has the code that is here for {', '.join(stages)} | next: dvc status")


def locked() -> Stale:
    """What dvc.lock says of code, by stage and path.

    Raises: InputError if there is no dvc.lock, or dvc.yaml lists other code than it.
    """
    stages = graph()
    if not LOCK.is_file():
        raise InputError(str(LOCK), got="no such file", wanted="the record of a run", do="dvc repro")
    entries = {name: entry["deps"] for name, entry in read_yaml(LOCK)["stages"].items() if name in stages}
    found = {(name, dep["path"]): dep["md5"] for name in entries for dep in entries[name] if is_code(dep["path"])}
    listed = {(name, dep) for name in entries for dep in stages[name]["deps"] if is_code(dep)}
    if other := sorted({path for _, path in listed ^ found.keys()}):
        raise InputError(str(GRAPH), got=f"{', '.join(other)} added or removed", wanted=f"the deps of {LOCK}", do=AGAIN)
    return found


@contextmanager
def repository() -> Iterator[Any]:
    """DVC's view of the working folder, to itself.

    Raises: RetryError if a DVC command has it.
    """
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo() as repo, repo.lock:
            yield repo
    except LockError as error:
        raise RetryError(str(error)) from None


def code(repo: Any) -> dict[str, Code]:
    """The code that stages depend on, in the working folder or in the commit that `repo` is switched to."""
    deps = {dep.def_path: dep for stage in repo.index.stages for dep in stage.deps if is_code(dep.def_path)}
    return {path: code_of(dep, repo) for path, dep in deps.items() if dep.exists}


def code_of(dep: Any, repo: Any) -> Code:
    dep.save()
    entry = {"md5": dep.hash_info.value, "size": dep.meta.size, "nfiles": dep.meta.nfiles}
    paths = [dep.fs_path] if dep.isfile() else list(repo.dvcignore.find(repo.fs, dep.fs_path))
    modules = {repo.fs.relpath(path, repo.root_dir): code_hash(read(repo, path), Path(path).suffix) for path in paths}
    return Code({key: value for key, value in entry.items() if value is not None}, modules)


def read(repo: Any, path: str) -> bytes:
    with repo.fs.open(path, "rb") as file:
        return bytes(file.read())


def last_commit() -> str:
    """The commit that last wrote dvc.lock.

    Raises: InputError if there is none.
    """
    try:
        commit = git("log", "-1", "--format=%H", "--", str(LOCK))
    except subprocess.SubprocessError:
        commit = ""
    if not commit:
        raise InputError(str(LOCK), got="no commit that has it", wanted="one, to compare the code with", do=AGAIN)
    return commit


def require_same(then: dict[str, Code], now: dict[str, Code], stale: Stale, commit: str) -> None:
    """Raises: InputError if dvc.lock is of other code than that of the commit, or if that one does something else."""
    if other := sorted(
        {path for (_, path), md5 in stale.items() if path not in then or then[path].entry["md5"] != md5}
    ):
        raise InputError(
            str(LOCK),
            got=f"{', '.join(other)} of other code than that of commit {commit[:SHORT]}, which last wrote {LOCK}",
            wanted="code that git has, to compare with",
            do=AGAIN,
        )
    paths = {path for _, path in stale}
    if changed := differences(modules(then, paths), modules(now, paths)):
        raise InputError(
            "code of the stages",
            got=", ".join(changed),
            wanted=f"no changes but of comments and docstrings since commit {commit[:SHORT]}, which last wrote {LOCK}",
            do=AGAIN,
        )


def modules(code: dict[str, Code], paths: set[str]) -> dict[str, str]:
    return {name: value for path in paths if path in code for name, value in code[path].modules.items()}


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    added, removed = sorted(after.keys() - before), sorted(before.keys() - after)
    changed = sorted(name for name in before.keys() & after if before[name] != after[name])
    return [*changed, *(f"{name} added" for name in added), *(f"{name} removed" for name in removed)]


def write(entries: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Put these entries into dvc.lock, whole or not at all; the rest of it stays as it is, byte for byte."""
    from ruamel.yaml import YAML

    yaml, text = YAML(), io.StringIO()
    data = yaml.load(read_yaml_text(LOCK))
    for (stage, path), entry in entries.items():
        next(dep for dep in data["stages"][stage]["deps"] if dep["path"] == path).update(entry)
    yaml.dump(data, text)
    unfinished = LOCK.with_suffix(".lock.new")
    unfinished.write_text(text.getvalue(), encoding="utf-8")
    unfinished.replace(LOCK)


def remember(repo: Any, stages: list[str]) -> None:
    """Have the present runs in DVC's run cache under the new hashes: other params and back then run nothing either."""
    for name in stages:
        stage = repo.stage.load_one(name=name)
        if not stage.changed():
            repo.stage_cache.save(stage)
