"""Checkpoints that a killed sft or grpo goes on from.

Reads   dvc.yaml (what a stage depends on), params.yaml, the stage's inputs
Writes  .posttrain/checkpoints/<stage>/<fingerprint>/step-N/, outside DVC's outs, which DVC removes before a run
Run     posttrain checkpoints

A checkpoint is whole or not there, is checked byte by byte before it is used, and is used only by a run of the same
fingerprint: a hash of everything that determines the stage's bytes. What is in one is the business of stages/resume.py.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages.errors import InputError, RetryError
from stages.launch import layout
from stages.lock import held
from stages.manifest import MANIFEST, sha256, write_json
from stages.params import Launch, Params, read_yaml
from stages.paths import BASE_MODELS, CHECKPOINTS, GRAPH, LOCKS, SCRATCH

FORMAT = 1
"""Part of the fingerprint: a checkpoint of another format is never read."""

KEEP = 2
PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "tokenizers", "safetensors", "datasets", "numpy", "peft"),
    *("bitsandbytes", "vllm"),
    *("deepspeed", "math-verify", "latex2sympy2_extended", "sympy"),
)
CODE = Path(__file__).parents[1]
MANIFEST_KEYS = {"facts", "files", "step"}


# ---------------------------------------------------------------------------------------------------------------------
# What determines a stage's bytes


def facts(stage: str, params: Params) -> dict[str, Any]:
    """Everything that determines the bytes of a stage, as plain data: its fingerprint is their hash.

    dvc.yaml says which sections of params, which code and which inputs. Hardware is here and not there: sums in another
    order differ in the last bits, which is fine for a new run and not for the second half of one.
    """
    graph = read_graph()[stage]
    sections = params.model_dump(mode="json", include=set(graph["params"]))
    return {
        "format": FORMAT,
        "stage": stage,
        "params": sections,
        "launch": hardware(params.launch),
        "inputs": {str(path): tree_hash(path) for path in inputs(graph["deps"], params)},
        "code": {dep: tree_hash(CODE / dep) for dep in graph["deps"] if dep.startswith("stages/")},
        "versions": versions(),
    }


def read_graph() -> dict[str, Any]:
    """The stages of dvc.yaml.

    Raises: InputError if it is not in the working directory.
    """
    if not GRAPH.is_file():
        raise InputError(
            str(GRAPH), got="no such file", wanted="the graph of the pipeline", do="run in the project's root folder"
        )
    stages: dict[str, Any] = read_yaml(GRAPH)["stages"]
    return stages


def fingerprint(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def hardware(launch: Launch) -> dict[str, Any]:
    """What of the hardware changes the last bits, as it is on this machine rather than as params leave it open."""
    import torch

    found = layout(launch)
    return {
        "device": torch.cuda.get_device_name() if found.device == "cuda" else "cpu",
        "threads": found.threads or torch.get_num_threads(),
        "micro_batch_size": launch.micro_batch_size,
        "strategy": found.strategy,
        "processes": found.processes,
        "mixed_precision": found.mixed_precision,
        "offload": found.offload,
    }


def inputs(deps: list[str], params: Params) -> list[Path]:
    """The data and models among a stage's deps; of the folder of base models only the one that params name."""
    base = Path(params.model.name_or_path)
    paths = [base if Path(dep) == BASE_MODELS else Path(dep) for dep in deps if not dep.startswith("stages/")]
    return [path for path in paths if path != base or base.is_dir()]


def tree_hash(path: Path) -> str | None:
    """One hash for a file, or for the names and contents of a folder; None where there is nothing."""
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    lines = [f"{sha256(file)}  {file.relative_to(path)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if path.is_dir() else None


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What tells two sets of facts apart, a line each: `sft.learning_rate 0.004, now 0.002`."""
    before, after = flat(old), flat(new)
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return [describe(key, before.get(key), after.get(key)) for key in changed]


def describe(key: tuple[str, ...], old: Any, new: Any) -> str:
    kind, *rest = key
    if kind in ("inputs", "code"):
        return rest[0]  # the hashes would say nothing
    name = ".".join(rest if kind in ("params", "versions") else key)
    return f"{name} {json.dumps(old)}, now {json.dumps(new)}"


def flat(data: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in data.items():
        found |= flat(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The checkpoints of one run


@dataclass
class Checkpoints:
    """The checkpoints of one stage and one fingerprint."""

    stage: str
    facts: dict[str, Any]
    written: int = 0
    seconds: float = 0.0
    """Spent on writing them, of this process."""
    _faulty: set[Path] = field(default_factory=set)

    @cached_property
    def folder(self) -> Path:
        return CHECKPOINTS / self.stage / fingerprint(self.facts)

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
        if manifest["facts"] != self.facts or manifest["step"] != step_of(path):
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
        """
        files = sorted(path for path in source.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(source)): sha256(path) for path in files}
        write_json(source / MANIFEST, {"step": step, "facts": self.facts, "files": hashes})
        for path in [*source.rglob("*"), source]:
            sync(path)
        target = self.folder / f"step-{step}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if target.exists():  # a faulty one, or this would have been the step to go on from
            shutil.rmtree(target)
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
        """For a stage that has published: nothing is left to go on with."""
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
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=step_of)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and set(manifest) == MANIFEST_KEYS else None


def discard(folder: Path) -> None:
    """Remove a folder so that a kill in between leaves all or nothing of it where it stood."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    doomed = SCRATCH / f"{CHECKPOINTS.name}-{folder.parent.name}-{folder.name}-{os.getpid()}"
    folder.replace(doomed)
    shutil.rmtree(doomed)


def sync(path: Path) -> None:
    """Have a file's or folder's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------------------------------------------
# One run at a time


def only_run(stage: str) -> AbstractContextManager[None]:
    """Hold a stage's lock in this workspace.

    Raises: RetryError, on entering, if another process holds it.
    """

    def refuse(holder: str) -> None:
        raise RetryError(f"process {holder} runs this stage in this folder; wait for its end, or stop it")

    return held(LOCKS / f"{stage}.lock", refuse)


# ---------------------------------------------------------------------------------------------------------------------
# What is there


def show(params: Params) -> None:
    """A line for each checkpoint: stage, fingerprint, step, size, age, and what tells it from the present params."""
    found = [step for stage in sorted(CHECKPOINTS.glob("*")) for run in sorted(stage.glob("*")) for step in steps(run)]
    if not found:
        print("checkpoints | none: the stages that were started have published, or wrote none yet")
        return
    present = {path.parts[-3]: facts(path.parts[-3], params) for path in found}
    print(f"{'stage':6} {'fingerprint':16} {'step':>7} {'size':>10} {'age':>8}  belongs to")
    for path in found:
        stage, run, _ = path.parts[-3:]
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        owner = belongs(path, present[stage])
        print(f"{stage:6} {run:16} {step_of(path):7} {readable(size):>10} {age(path):>8}  {owner}")


def belongs(path: Path, present: dict[str, Any]) -> str:
    manifest = read_manifest(path)
    if manifest is None:
        return f"nothing: it has no readable {MANIFEST}"
    other = differences(manifest["facts"], present)
    return f"others: {'; '.join(other)}" if other else "the present params, inputs and code"


def readable(size: int) -> str:
    value, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.3g} {units[0]}"


def age(path: Path) -> str:
    seconds = max(0.0, time.time() - (path / MANIFEST).stat().st_mtime) if (path / MANIFEST).exists() else 0.0
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"


# ---------------------------------------------------------------------------------------------------------------------
# A disk that takes no more

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def disk_error(error: OSError, stage: str) -> InputError | None:
    """What to tell a person whose disk is full, read-only or broken; None for any other fault."""
    if error.errno not in DISK:
        return None
    return InputError(
        error.filename or f"{Path.cwd()}",
        got=f"{os.strerror(error.errno)}; {readable(shutil.disk_usage('.').free)} are free here",
        wanted="a folder that can be written, with room",
        do=f"make room or mend the rights, then run `posttrain {stage}` again; what is published or saved is intact",
    )
