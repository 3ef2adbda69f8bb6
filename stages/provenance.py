"""What an out was made from, for its manifest, and whether a parent is still what its manifest says.

Reads   dvc.yaml (what a stage depends on), params.yaml, the stage's inputs
Writes  the facts of every manifest.json, and .posttrain/runs/<stage>.json

A manifest holds what determines the bytes of an out and nothing else: sections of params (the seed among them), the
manifests of the parents, input files, code, versions. Two runs of one commit write the same manifest.

The commit is not in it. An unrelated commit, or results that are not committed yet, would change the out's bytes, with
them dvc.lock, and every stage after it would run again. Commit and dirtiness go to the untracked run log, beside the
hash of the manifest that the run wrote; the code itself is in the manifest, by its content.
"""

import ast
import hashlib
import json
import os
import platform
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.checkpoint import CODE, read_graph, versions
from stages.errors import InputError
from stages.manifest import MANIFEST, files_of, sha256, sha256_all, write_json
from stages.params import Params
from stages.paths import BASE_MODELS, EVALUATE_RESULTS, GRPO_MODEL, PREPARED, RUN_LOG, SFT_MODEL, SOURCE_DATA

OUTS = {"prepare": PREPARED, "sft": SFT_MODEL, "grpo": GRPO_MODEL, "evaluate": EVALUATE_RESULTS}
"""The folder of each stage that has a manifest."""

STAGES = {folder: stage for stage, folder in OUTS.items()}

VERIFIER_PACKAGES = {"python", "math-verify", "latex2sympy2_extended", "sympy", "datasets"}
"""What `prepare` can depend on; a new torch changes no problem."""

TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    *("added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt"),
)
TEMPLATE = "chat_template.jinja"
IDENTITY = {
    "tokenizer": "tokenizer",
    "chat_template": "chat template",
    "system": "system prompt",
    "architecture": "architecture",
}
"""What two stages of one model have to share, and how a person calls it."""


# ---------------------------------------------------------------------------------------------------------------------
# What goes into a manifest


def record(stage: str, params: Params) -> dict[str, Any]:
    """Everything that determines the bytes of a stage's out, as dvc.yaml lists it, hardware left out."""
    graph = read_graph()[stage]
    used = versions()
    return {
        "stage": stage,
        "params": params.model_dump(mode="json", include=set(graph["params"])),
        "parents": {dep: sha256(Path(dep) / MANIFEST) for dep in parents_of(graph["deps"])},
        "inputs": hashes_of(input_files(graph["deps"], params)),
        "code": code_hashes(graph["deps"]),
        "versions": {name: used[name] for name in used if stage != "prepare" or name in VERIFIER_PACKAGES},
    }


def parents_of(deps: list[str]) -> list[str]:
    return [dep for dep in deps if Path(dep) in OUTS.values()]


def input_files(deps: list[str], params: Params) -> list[Path]:
    """The files among a stage's deps that no stage makes; of data and base models what params name, if it is here."""
    found: list[Path] = []
    for dep in deps:
        if dep.startswith("stages/") or dep in parents_of(deps):
            continue
        named = {SOURCE_DATA: params.prepare.dataset, BASE_MODELS: params.model.name_or_path}
        path = Path(named.get(Path(dep), dep))
        found += [path] if path.is_file() else files_of(path)
    return found


def hashes_of(paths: list[Path]) -> dict[str, str]:
    return {str(path): value for path, value in sha256_all(paths).items()}


def code_hashes(deps: list[str]) -> dict[str, str]:
    """The hash of each module that a stage depends on, from the tree that this process runs."""
    found: list[Path] = []
    for dep in (CODE / dep for dep in deps if dep.startswith("stages/")):
        found += files_of(dep) if dep.is_dir() else [dep]
    return {str(path.relative_to(CODE)): code_hash(path) for path in found if path.is_file()}


def code_hash(path: Path) -> str:
    """The hash of a module's syntax tree without docstrings, so that a comment trains no model again."""
    if path.suffix != ".py":
        return sha256(path)
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not is_text(line)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def is_text(line: ast.stmt) -> bool:
    """A string that stands alone: a docstring, of a function or of a constant."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def reproducible(device: str) -> str:
    """How far equal runs on a device give equal bytes, said rather than pretended."""
    if device == "cpu":
        return "bit for bit on the same kind of processor with the same number of threads"
    return "up to rounding: kernels of the accelerator add in no fixed order"


def identity(folder: Path, system: str | None) -> dict[str, Any]:
    """What the next stage relies on: tokenizer, chat template, system prompt and architecture of a model folder.

    Raises: InputError if one of its files cannot be read.
    """
    config = read_object(folder / "config.json")
    tokenizer_config = read_object(folder / TOKENIZER_CONFIG)
    template = tokenizer_config.pop("chat_template", None)
    if (folder / TEMPLATE).is_file():
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
    tokenizer = {name: sha256(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    tensors = {path.name: tensor_shapes(path) for path in sorted(folder.glob("*.safetensors"))}
    return {
        "tokenizer": digest({**tokenizer, TOKENIZER_CONFIG: tokenizer_config}),
        "chat_template": digest(template),
        "system": system,
        "architecture": {
            "names": config.get("architectures"),
            "sha256": digest({"config": config, "tensors": tensors}),
        },
    }


def digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no file."""
    return read_header(path, lambda: json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def tensor_shapes(path: Path) -> dict[str, Any]:
    """Name, type and shape of each tensor in a safetensors file, from its header."""

    def header() -> Any:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > path.stat().st_size:
                raise ValueError("a header that is longer than the file")
            return json.loads(file.read(size))

    tensors = {name: value for name, value in read_header(path, header).items() if isinstance(value, dict)}
    return {name: [value.get("dtype"), value.get("shape")] for name, value in tensors.items()}


def read_header(path: Path, read: Callable[[], Any]) -> dict[str, Any]:
    try:
        data = read()
    except (ValueError, struct.error, RecursionError) as error:
        raise InputError(
            str(path),
            got=f"a file that cannot be read: {' '.join(str(error).split())[:120]}",
            wanted="the file as a stage wrote it",
            do=f"run `posttrain {STAGES.get(path.parent, 'STAGE')}` again",
        ) from None
    return data if isinstance(data, dict) else {}


# ---------------------------------------------------------------------------------------------------------------------
# What a stage demands of its parents


def require_unchanged(folder: Path, manifest: dict[str, Any], made_by: str, system: str | None) -> None:
    """That a model is the one its manifest records, and was trained with the present system prompt.

    Raises: InputError naming tokenizer, chat template, system prompt or architecture, or else the file that changed.
    """
    again = f"run `posttrain {made_by}` again"
    recorded = manifest.get("model")
    if not isinstance(recorded, dict):
        raise InputError(
            str(folder / MANIFEST),
            got="no record of the model's tokenizer, chat template, system prompt and architecture",
            wanted=f"the manifest that `posttrain {made_by}` writes",
            do=again,
        )
    found = identity(folder, system)
    for key, name in IDENTITY.items():
        if recorded.get(key) == found[key]:
            continue
        if key == "system":
            raise InputError(
                "params.yaml: prompts.system",
                got=json.dumps(system, ensure_ascii=False),
                wanted=f"the system prompt that {folder} was trained with: {json.dumps(recorded.get(key))}",
                do=f"put it back, or {again}",
            )
        raise InputError(
            f"{folder}: {name}",
            got="not the one recorded",
            wanted=f"the {name} that {folder / MANIFEST} records",
            do=again,
        )
    hashes = sha256_all(folder / name for name in manifest["files"])
    changed = [name for name, value in manifest["files"].items() if hashes[folder / name] != value]
    if changed:
        raise InputError(
            str(folder),
            got=f"{', '.join(changed)} changed",
            wanted=f"the bytes that {folder / MANIFEST} records",
            do=again,
        )


def require_child(folder: Path, manifest: dict[str, Any], parent: Path) -> None:
    """That a model was made from the parent that is there now.

    Raises: InputError if it was made from another one, or does not say.
    """
    recorded = manifest.get("parents", {}).get(str(parent))
    if recorded != sha256(parent / MANIFEST):
        raise InputError(
            str(folder),
            got=f"a model made from another {parent} than the one that is here"
            if recorded
            else "no record of a parent",
            wanted=f"the model that GRPO made of {parent}; a gain over anything else says nothing",
            do="run `posttrain grpo` again, or restore both with `dvc checkout`",
        )


# ---------------------------------------------------------------------------------------------------------------------
# What may differ between two equal runs


def log_run(stage: str, **facts: Any) -> None:
    """Seconds, machine, and commit of this run, in a file that no DVC stage tracks."""
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    manifest = OUTS[stage] / MANIFEST
    wrote = {"manifest": sha256(manifest)} if manifest.is_file() else {}
    write_json(RUN_LOG / f"{stage}.json", {"stage": stage, "machine": machine, "git": git_state(), **wrote, **facts})


def git_state() -> dict[str, Any] | None:
    """The commit, and whether tracked files other than results differ from it; None outside a repository."""
    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!results")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
