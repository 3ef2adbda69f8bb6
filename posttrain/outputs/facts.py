"""What an out is made from: one answer, for its manifest and for the fingerprint of its checkpoints.

Reads   dvc.yaml (what a stage depends on), params, the stage's inputs, the code in the working folder

The facts are what determines the bytes of an out and nothing else: sections of params (the seed among them), the
manifests of the parents, input files, code, versions. Two runs of one commit have the same. Code counts by its syntax
tree, so that a comment neither changes a manifest nor discards a checkpoint. That the parents are what their manifests
say, posttrain/outputs/parents.py makes sure of; so their weights are hashed once.

The commit is not among the facts. An unrelated commit, or results that are not committed yet, would change the out's
bytes, with them dvc.lock, and every stage after it would run again. Commit and dirtiness go to the untracked run log
(posttrain/outputs/run_log.py), beside the hash of the manifest that the run wrote.
"""

import ast
import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from posttrain.errors import RetryError
from posttrain.graph import stage_of
from posttrain.launch.layout import is_main, layout
from posttrain.outputs.manifest import MANIFEST, files_of, sha256, sha256_all
from posttrain.params.launch import Launch
from posttrain.params.schema import Params
from posttrain.paths import BASE_MODELS, EVALUATE_RESULTS, GRPO_MODEL, OWN_REWARDS, PREPARED, SFT_MODEL, SOURCE_DATA

FORMAT = 2
"""Part of the fingerprint: a checkpoint of another format is never read."""

OUTS = {"prepare": PREPARED, "sft": SFT_MODEL, "grpo": GRPO_MODEL, "evaluate": EVALUATE_RESULTS}
"""The folder of each stage that has a manifest."""
MADE_BY = {folder: stage for stage, folder in OUTS.items()}

ROOT = Path(__file__).parents[2]
"""The tree that this process runs."""
CODE = ("stages", "posttrain", str(OWN_REWARDS))
"""Folders whose files are code."""

PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "tokenizers", "safetensors", "datasets", "numpy", "peft"),
    *("bitsandbytes", "vllm"),
    *("deepspeed", "math-verify", "latex2sympy2_extended", "sympy"),
)
VERIFIER_PACKAGES = {"python", "math-verify", "latex2sympy2_extended", "sympy", "datasets"}
"""What `prepare` can depend on; a new torch changes no problem."""


@dataclass(frozen=True)
class Origin:
    """What a stage's outs are made from, looked at when it is first asked for and only once: it may be gigabytes.

    Of several processes the main one asks, because it alone publishes and decides which checkpoint to go on from. A
    stage asks before it reads: what is put there while it runs is not what its outs were made from.
    """

    stage: str
    params: Params

    @classmethod
    def now(cls, stage: str, params: Params) -> Self:
        """What is there when a stage begins, looked at by its main process."""
        origin = cls(stage, params)
        if is_main():
            origin.require_same_parents()
        return origin

    @cached_property
    def record(self) -> dict[str, Any]:
        """What goes into a manifest, but for the hardware, which should not matter."""
        section = stage_of(self.stage)
        deps, used = section["deps"], versions()
        return {
            "stage": self.stage,
            "params": self.params.model_dump(mode="json", include=set(section["params"])),
            "parents": {dep: sha256(Path(dep) / MANIFEST) for dep in parents_of(deps)},
            "inputs": {
                str(path): value for path, value in sha256_all(input_files(self.stage, deps, self.params)).items()
            },
            "code": code_hashes(deps),
            "versions": {name: used[name] for name in used if self.stage != "prepare" or name in VERIFIER_PACKAGES},
        }

    def require_same_parents(self) -> None:
        """Raises: RetryError if a folder that the stage read is not the one any more that was there when it began"""
        manifests = {dep: Path(dep) / MANIFEST for dep in self.record["parents"]}
        now = {dep: sha256(path) if path.is_file() else None for dep, path in manifests.items()}
        if changed := [dep for dep, value in self.record["parents"].items() if now[dep] != value]:
            raise RetryError(
                f"{', '.join(changed)} became another while {self.stage} ran; nothing is published"
                f" | to run it on what is there now: posttrain {self.stage}"
            )

    @cached_property
    def trained(self) -> dict[str, Any]:
        """What goes into the manifest of a model that was trained: with the layout, which decides its last bits."""
        return {**self.record, "launch": hardware(self.params.launch)}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint belongs to. Hardware is here and not in dvc.yaml: sums in another order differ in the last
        bits, which is fine for a new run and not for the second half of one."""
        return {"format": FORMAT, **self.trained}

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]


def hardware(launch: Launch) -> dict[str, Any]:
    """Settings of hardware that change the last bits, as they are on this machine, with nothing left open."""
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


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def reproducible(device: str) -> str:
    """How far equal runs on a device give equal bytes, said rather than pretended."""
    if device == "cpu":
        return "bit for bit on the same kind of processor with the same number of processes and threads"
    return "up to rounding: kernels of the accelerator add in no fixed order"


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def parents_of(deps: list[str]) -> list[str]:
    return [dep for dep in deps if Path(dep) in MADE_BY]


def is_code(dep: str) -> bool:
    return Path(dep).parts[0] in CODE


def input_files(stage: str, deps: list[str], params: Params) -> list[Path]:
    """The files among a stage's deps that no stage makes; of data and base models what params name, if it is here."""
    prepared = [*(source.dataset for source in params.prepare.sources), *params.prepare.evaluation_paths]
    data = prepared if stage == "prepare" else params.evaluate.local_data
    named = {SOURCE_DATA: data, BASE_MODELS: [params.model.name_or_path]}
    inputs = [dep for dep in deps if not is_code(dep) and Path(dep) not in MADE_BY]
    paths = dict.fromkeys(Path(name) for dep in inputs for name in named.get(Path(dep), [dep]))
    return [file for path in paths for file in ([path] if path.is_file() else files_of(path))]


# ---------------------------------------------------------------------------------------------------------------------
# Code


def code_hashes(deps: list[str]) -> dict[str, str]:
    """The hash of each file of code that a stage depends on: of this project from the tree that this process runs."""
    found: dict[str, str] = {}
    for dep in filter(is_code, deps):
        path = code_path(dep)
        files = {f"{dep}/{file.relative_to(path)}": file for file in files_of(path)} if path.is_dir() else {dep: path}
        found |= {name: code_hash(file.read_bytes(), file.suffix) for name, file in files.items() if file.is_file()}
    return found


def code_path(name: str) -> Path:
    """Where a file or folder of code is: of this project in the tree that this process runs."""
    return Path(name) if Path(name).parts[0] == str(OWN_REWARDS) else ROOT / name


@lru_cache(1024)
def code_hash(source: bytes, suffix: str = ".py") -> str:
    """The hash of a module's syntax tree without docstrings; of anything else, of the bytes.

    The same under every Python that posttrain runs on: fields that some of them lack are empty in the others.
    """
    with suppress(SyntaxError, ValueError):
        if suffix == ".py":
            source = "\n".join(shape(ast.parse(source))).encode()
    return hashlib.sha256(source).hexdigest()


def shape(node: ast.AST) -> Iterator[str]:
    """The tree as lines: the type of each node, its fields that are not empty, and where they end."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        items = value if isinstance(value, list) else [value]
        for item in (item for item in items if item is not None and not is_text(item)):
            yield name
            yield from shape(item) if isinstance(item, ast.AST) else [repr(item)]
    yield "end"


def is_text(item: Any) -> bool:
    """A string that stands alone: a docstring, of a function or of a constant."""
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)


# ---------------------------------------------------------------------------------------------------------------------
# What tells two sets of facts apart


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line each: `sft.learning_rate 0.004, now 0.002`."""
    before, after = flat(old), flat(new)
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return [describe(key, before.get(key), after.get(key)) for key in changed]


def describe(key: tuple[str, ...], old: Any, new: Any) -> str:
    kind, *rest = key
    if kind in ("parents", "inputs", "code"):
        return rest[0]  # the hashes would say nothing
    name = ".".join(rest if kind in ("params", "versions") else key)
    return f"{name} {json.dumps(old)}, now {json.dumps(new)}"


def flat(data: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in data.items():
        found |= flat(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
    return found
