"""How much of a model training has moved: the share of its weights that are not what it started from.

Compared as published, after adapters are merged and in the dtype of params, because that is what a person gets.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import cached_file

from posttrain.params.schema import Model
from posttrain.training.standstill import METRIC
from posttrain.training.weights import Weights

Start = Path | Mapping[str, torch.Tensor]
"""What training started from: a folder with weights, or the weights."""


def start_of(model: PreTrainedModel, params: Model) -> Start:
    """Where the weights of a model that was just loaded or made are to be found after training.

    Those from a random generator are copied, all others are files.
    """
    if params.name_or_path == "scratch":
        return Weights.of(model, 0).tensors
    folder = Path(params.name_or_path)
    if folder.is_dir():
        return folder
    return Path(str(cached_file(params.name_or_path, "config.json", revision=params.revision))).parent


def changed_frac(model: PreTrainedModel, start: Start) -> float | None:
    """Share of the weights that differ from those of the same name; None where the names have nothing in common."""
    now = model.state_dict()
    changed = count = 0
    for name, before in weights_of(start):
        if name in now and now[name].shape == before.shape:
            value = now[name].cpu()
            changed += int((value != before.to(value.dtype)).sum())
            count += value.numel()
    return changed / count if count else None


def weights_of(start: Start) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor, one file's tensor after the other in memory."""
    if not isinstance(start, Path):
        yield from start.items()
        return
    for path in sorted(start.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 - no mapping


def changed_metric(model: PreTrainedModel, start: Start) -> dict[str, float]:
    frac = changed_frac(model, start)
    return {} if frac is None else {METRIC: frac}
