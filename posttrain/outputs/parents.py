"""What a stage demands of the outs that it reads: they are what their manifests say, and belong together.

Reads   data/prepared, models/ and their manifests
"""

import json
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.graph import how_to_restore
from posttrain.launch.layout import is_main
from posttrain.outputs.identity import identity
from posttrain.outputs.manifest import MANIFEST, OWN_MODEL, require_complete, sha256, sha256_all
from posttrain.paths import BASE_MODELS

IDENTITY = {
    "tokenizer": "tokenizer",
    "chat_template": "chat template",
    "system": "system prompt",
    "architecture": "architecture",
}
"""What two stages of one model have to share, and how a person calls it."""


def require_out(folder: Path, made_by: str) -> dict[str, Any]:
    """The manifest of a folder that a stage reads, every file of which is as it was written.

    Of several processes the main one hashes the files; where they changed, the others end with it.

    Raises: InputError if the folder is missing, half-written or changed.
    """
    manifest = require_complete(folder, made_by)
    if is_main():
        require_files(folder, manifest, made_by)
    return manifest


def require_model(folder: Path, made_by: str, system: str | None) -> dict[str, Any]:
    """The manifest of a model that is the one it records, and was trained with the present system prompt.

    Raises: InputError naming tokenizer, chat template, system prompt or architecture, or else the file that changed.
    """
    manifest = require_complete(folder, made_by)
    if is_main():
        require_identity(folder, manifest, made_by, system)
        require_files(folder, manifest, made_by)
    return manifest


def require_identity(folder: Path, manifest: dict[str, Any], made_by: str, system: str | None) -> None:
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


def require_files(folder: Path, manifest: dict[str, Any], made_by: str) -> None:
    hashes = sha256_all(folder / name for name in manifest["files"])
    changed = [name for name, value in manifest["files"].items() if hashes[folder / name] != value]
    if changed:
        raise InputError(
            str(folder),
            got=f"{', '.join(changed)} changed",
            wanted=f"the bytes that {folder / MANIFEST} records",
            do=how_to_restore(made_by, *(folder / name for name in changed))
            + (f"; {OWN_MODEL}" if (folder / "config.json").is_file() else ""),
        )


def require_tracked(name_or_path: str) -> None:
    """Refuse a local model that DVC does not look at: it could become another, and no stage would run again.

    DVC follows links to files and no links to folders.

    Raises: InputError with the command that brings it where DVC looks
    """
    path = Path(name_or_path)
    if not path.is_dir() or path.resolve().is_relative_to(BASE_MODELS.resolve()):
        return
    target = BASE_MODELS / path.name
    linked = path.absolute().is_relative_to(Path.cwd() / BASE_MODELS)
    copy = f"cp -rs {path.resolve()} {target}"
    raise InputError(
        "params.yaml: model.name_or_path",
        got=f"{name_or_path}, a link to a folder, which DVC does not follow"
        if linked
        else f"{name_or_path}, a folder outside {BASE_MODELS}/",
        wanted=f"one in {BASE_MODELS}/, where DVC notices when a file changes",
        do=f"link its files instead: rm {path} && {copy}"
        if linked
        else f"mv {path} {target} (or link its files: {copy}), then set model.name_or_path: {target}",
    )


def require_child(folder: Path, manifest: dict[str, Any], parent: Path) -> None:
    """Refuse a model that was not made from the parent that is there now.

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
