"""From a model that several processes share back to a plain one, whatever the strategy.

ZeRO-3 and FSDP keep a part of each weight in each process; what a stage samples from or publishes is whole. Every
process has to take part in what is called here, and one, the main process, gets the result.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.distributed import DistributedBackend
from trl.models import unwrap_model_for_generation

from posttrain.params.schema import Params
from posttrain.training.lora import merged, merged_weights
from posttrain.training.models import DTYPES, align_special_tokens

TIED = "all_tied_weights_keys"


@contextmanager
def gathered_model(trainer: Any) -> Iterator[PreTrainedModel]:
    """The trainer's model, its weights in one piece in each process while the context lasts."""
    backend = DistributedBackend(trainer.accelerator)
    with (
        unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
        backend.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        yield model


def plain_model(
    trainer: Any, base: str, params: Params, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> PreTrainedModel | None:
    """What the trainer has trained as a model without adapters in the dtype of params; None but in the main process.

    `base` is what was trained, `folder` room for files.
    """
    backend = DistributedBackend(trainer.accelerator)
    if backend.is_zero3 or backend.is_fsdp:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        model = rebuilt(trainer.model, weights, params) if trainer.is_world_process_zero() else None
    else:
        model = merged(trainer.model, base, params, folder) if trainer.is_world_process_zero() else None
    if model is not None:
        align_special_tokens(model, tokenizer)
        model.to(DTYPES[params.model.dtype])
    return model


def rebuilt(trained: Any, weights: dict[str, torch.Tensor], params: Params) -> PreTrainedModel:
    """A model in this process's memory with all the weights, adapters merged.

    Raises: RuntimeError if a weight is missing or has another name or shape.
    """
    lora = params.model.lora
    source: PreTrainedModel = trained if lora is None else trained.get_base_model()
    if lora is not None:
        weights = merged_weights(weights, lora)
    with torch.device("meta"):
        model = type(source)(source.config)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected or set(missing) - set(getattr(model, TIED, {}) or {}):
        raise RuntimeError(f"the gathered weights do not fit the model: {missing} {unexpected}")
    model.tie_weights()
    model.generation_config = source.generation_config
    return model
