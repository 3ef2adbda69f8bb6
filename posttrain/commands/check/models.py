"""The models that sft and grpo start from, looked at without loading them, and whether what stages made is of these
params.

Reads   models/base, models/sft: configs, headers of the weights, and the values for a few seconds
"""

from pathlib import Path
from typing import Any

from posttrain.commands.check.rules import Finding, later
from posttrain.commands.check.workspace import Workspace, complete
from posttrain.graph import stage_of
from posttrain.outputs.disk import readable
from posttrain.outputs.facts import MADE_BY, differences, versions
from posttrain.outputs.manifest import MANIFEST, sha256, sha256_all
from posttrain.outputs.weight_files import Tensor, look_at_values, read_weights
from posttrain.params.schema import Params

SECONDS = 3.0
"""For the values of a model; the stage looks at all of them."""
HASHED = 2**30
"""Bytes of a model that are hashed sooner than transformers is imported."""


def check_base_weights(work: Workspace) -> list[Finding]:
    name, origin = "weights of the base", work.params.model.name_or_path
    if origin == "scratch":
        return [Finding("ok", name, origin, "made by `posttrain sft`")]
    from posttrain.training.pretrained import require_source

    require_source(origin, work.params.model)
    if work.base is None:
        return [
            Finding("later", name, origin, "on the Hub; cannot be checked before `posttrain sft` has downloaded it")
        ]
    return weights(name, work.base, work.base_tokenizer, work.params)


def check_sft_weights(work: Workspace) -> list[Finding]:
    name = "weights of the policy"
    if work.sft_model is None:
        return later(name, "sft")
    if as_published(work.sft_model):
        return [values(name, work.sft_model, read_weights(work.sft_model))]
    return weights(name, work.sft_model, work.sft_tokenizer, work.params)


def weights(name: str, folder: Path, tokenizer: Any, params: Params) -> list[Finding]:
    """Whether transformers can load a folder, its values are numbers, and every token has a row of the embedding.

    Raises: InputError for files that are no model
    """
    from posttrain.training.models import load_model, require_rows

    tensors = read_weights(folder)
    model = load_model(str(folder), params.model, device_map="meta")
    require_rows(model, tokenizer, str(folder))
    return [values(name, folder, tensors)]


def as_published(folder: Path) -> bool:
    """Whether a model has the bytes of the stage that wrote it, which transformers had loaded there; False without a
    look at more than HASHED."""
    manifest = complete(folder, MADE_BY[folder]) or {"files": {}}
    files = {folder / name: value for name, value in manifest["files"].items()}
    written = manifest.get("versions", {}).get("transformers") == versions().get("transformers")
    return written and sum(path.stat().st_size for path in files) <= HASHED and sha256_all(files) == files


def values(name: str, folder: Path, tensors: list[Tensor]) -> Finding:
    where, look = str(folder), look_at_values(tensors, SECONDS)
    size = sum(tensor.end - tensor.start for tensor in tensors)
    if look.lost is not None:
        saw = f"{look.lost.name} in {look.lost.file.name} holds values that are no finite numbers"
        why = "No training goes on from them."
        return Finding("fault", name, where, saw, why, "Copy or download the model again, or name another.")
    if not size:
        return Finding("later", name, where, "pickled, so without a header; `posttrain sft` looks at them")
    if not look.all_read:
        saw = f"all there; finite in {readable(look.read)} of {readable(size)}, the stage looks at the rest"
        return Finding("ok", name, where, saw)
    return Finding("ok", name, where, f"all there, {readable(size)} of finite numbers")


# ---------------------------------------------------------------------------------------------------------------------
# Outputs of other params


def check_stale(folder: Path, work: Workspace) -> list[Finding]:
    stage = MADE_BY[folder]
    if not (changes := changes_since(folder, work.params)):
        return []
    saw = f"stale: made with {'; '.join(changes[:3])}{f'; and {len(changes) - 3} more' if len(changes) > 3 else ''}"
    why = "It belongs to other params, and the checks look at what is there."
    return [Finding("warn", f"output of {stage}", str(folder), saw, why, f"`posttrain {stage}` makes it anew.")]


def changes_since(folder: Path, params: Params) -> list[str]:
    """What of an output's params and parents is not what is here; nothing without an output, or without a record."""
    stage = MADE_BY[folder]
    manifest = complete(folder, stage)
    if manifest is None or not isinstance(recorded := manifest.get("params"), dict):
        return []
    present = params.model_dump(mode="json", include=set(stage_of(stage)["params"]))
    known = {name: value for name, value in present.items() if name in recorded}
    changed = differences({"params": recorded}, {"params": known})
    parents = manifest.get("parents")
    for parent, value in parents.items() if isinstance(parents, dict) else ():
        path = Path(parent) / MANIFEST
        if path.is_file() and sha256(path) != value:
            changed.append(f"another {parent}")
    return changed
