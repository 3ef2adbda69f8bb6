"""Checkpoints that a killed sft or grpo goes on from.

Writes  .posttrain/checkpoints/<stage>/<fingerprint>/step-N/, outside DVC's outs, which DVC removes before a run
Run     posttrain checkpoints

A checkpoint is whole or not there, is checked byte by byte before it is used, and is used only by a run of the same
fingerprint: a hash of everything that determines the stage's bytes. What is in one is the business of
posttrain/training/resume.py.
"""

import os
import re
import shutil
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.errors import InputError, RetryError
from posttrain.outputs.facts import Origin
from posttrain.outputs.json_files import read_object
from posttrain.outputs.manifest import MANIFEST, obey_umask, sha256, write_json
from posttrain.paths import CHECKPOINTS, LOCKS, UNPUBLISHED
from posttrain.processes.lock import held, keep_held

KEEP = 2
NUMBERED = re.compile(r"step-[0-9]{1,18}")  # isdigit() takes ², which int() does not


MANIFEST_KEYS = {"facts", "files", "step"}


@dataclass
class Checkpoints:
    """The checkpoints of one stage and one fingerprint, those of `origin`."""

    origin: Origin
    written: int = 0
    seconds: float = 0.0
    """Spent on writing them, of this process."""
    _faulty: set[Path] = field(default_factory=set)

    @property
    def stage(self) -> str:
        return self.origin.stage

    @property
    def folder(self) -> Path:
        return CHECKPOINTS / self.stage / self.origin.fingerprint

    def latest(self) -> Path | None:
        """The newest checkpoint of which every byte is as it was written; others are named and left out."""
        for path in reversed(steps(self.folder)):
            if (fault := self.fault(path)) is None:
                return path
            self._faulty.add(path)
            print(f"{self.stage} | left out {path}: {fault}")
        return None

    def fault(self, path: Path) -> str | None:
        """What is wrong with a checkpoint, None if nothing is."""
        manifest = read_manifest(path)
        if manifest is None:
            return f"no readable {MANIFEST}"
        if manifest["facts"] != self.origin.facts or manifest["step"] != step_of(path):
            return f"its {MANIFEST} belongs to another"
        for name, expected in manifest["files"].items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if sha256(path / name) != expected:
                return f"{name} is not what was written"
        return None

    def commit(self, source: Path, step: int) -> Path:
        """Make the folder `source` the checkpoint of `step` by one rename; all but the last KEEP go.

        Everything is on the disk before the rename is, so neither a kill nor a power cut leaves half of one.

        Raises: RetryError if another process runs this stage by now
        """
        keep_held()
        files = sorted(path for path in source.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(source)): sha256(path) for path in files}
        write_json(source / MANIFEST, {"step": step, "facts": self.origin.facts, "files": hashes})
        obey_umask(source)
        for path in [*source.rglob("*"), source]:
            sync(path)
        target = self.folder / f"step-{step}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if target.exists():  # a faulty one, or this would have been the step to go on from
            discard(target)
        source.replace(target)
        sync(self.folder)
        self._faulty.discard(target)
        self.prune(step)
        return target

    def prune(self, step: int) -> None:
        """Keep the last KEEP good ones up to `step`. Later ones can only be faulty."""
        good = [path for path in steps(self.folder) if step_of(path) <= step and path not in self._faulty]
        for path in set(steps(self.folder)) - set(good[-KEEP:]):
            discard(path)

    def remove(self) -> None:
        """Delete them all: the stage has published, and nothing is left to go on with."""
        if self.folder.exists():
            discard(self.folder)
        for folder in (self.folder.parent, CHECKPOINTS):
            with suppress(OSError):  # others are still there
                folder.rmdir()

    def cost(self) -> dict[str, float]:
        """How many this process wrote, and the seconds that took."""
        return {"written": self.written, "seconds": self.seconds}

    def others(self) -> list[Path]:
        """Checkpoints of this stage with another fingerprint."""
        return [step for folder in self.folder.parent.glob("*") if folder != self.folder for step in steps(folder)]


def steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by step; a clock that was set back does not matter."""
    return sorted((path for path in folder.glob("step-*") if NUMBERED.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = read_object(path / MANIFEST, "remove it")
    except InputError:
        return None
    sound = set(manifest) == MANIFEST_KEYS and all(isinstance(manifest[key], dict) for key in ("facts", "files"))
    return manifest if sound else None


def discard(folder: Path) -> None:
    """Remove a folder so that a kill in between leaves all or nothing of it where it stood.

    Somebody who removes it at the same time is welcome.
    """
    doomed = UNPUBLISHED / f"{CHECKPOINTS.name}-{folder.parent.name}-{folder.name}-{os.getpid()}"
    with suppress(FileNotFoundError):
        UNPUBLISHED.mkdir(parents=True, exist_ok=True)
        folder.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file's or folder's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def only_run(stage: str) -> AbstractContextManager[None]:
    """Hold a stage's lock in this workspace.

    Raises: RetryError, on entering, if another process holds it.
    """

    def refuse(holder: str) -> None:
        raise RetryError(f"process {holder} runs this stage in this folder; wait for its end, or stop it")

    return held(LOCKS / f"{stage}.lock", refuse)
