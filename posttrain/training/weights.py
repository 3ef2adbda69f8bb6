"""The weights of a model that trains: whole copies of them, and whether all are finite numbers.

ZeRO-3 and FSDP share weights out. Copies are made of weights in one piece, finiteness is looked at in each process's
part, and what one finds all processes learn, because all have to decide alike.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import PreTrainedModel

from posttrain.launch.layout import is_main

ELSEWHERE = "in another process"
TRIED = 8
"""Tokens after which the model is asked for its opinion."""


@dataclass(frozen=True)
class Weights:
    """A copy of what is trained, on the CPU."""

    step: int
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, model: PreTrainedModel, step: int) -> "Weights":
        with gathered_parameters(model):
            found = trained(model).items() if keeps(model) else ()
            return cls(step, {name: value.detach().to("cpu", copy=True) for name, value in found})

    @torch.no_grad()
    def restore(self, model: PreTrainedModel) -> None:
        with gathered_parameters(model, modifier_rank=0):
            for name, value in trained(model).items() if keeps(model) else ():
                value.copy_(self.tensors[name])


def trained(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@contextmanager
def gathered_parameters(model: PreTrainedModel, modifier_rank: int | None = None) -> Iterator[None]:
    """What is trained in one piece, where ZeRO-3 shares it out; what the modifying rank changes, all get."""
    if not is_sharded(model):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(trained(model).values()), modifier_rank=modifier_rank):
        yield


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether ZeRO-3 shares the weights out."""
    return any(hasattr(value, "ds_id") for value in model.parameters())


def keeps(model: PreTrainedModel) -> bool:
    """Whether this process holds copies: each one of what it has whole, the first one of what is shared out."""
    return is_main() or not is_sharded(model)


# ---------------------------------------------------------------------------------------------------------------------
# Finite numbers


def lost_weights(model: PreTrainedModel) -> list[str]:
    """The names of the weights with a value that is no finite number, frozen ones too."""
    return lost(model.named_parameters())


def lost_gradients(model: PreTrainedModel) -> list[str]:
    """Likewise of the gradients, as far as a process has any: DeepSpeed keeps them to itself."""
    return lost((name, value.grad) for name, value in model.named_parameters() if value.grad is not None)


def lost(named: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    mine = {name: own_part(value) for name, value in named if value.is_floating_point()}
    mine = {name: value for name, value in mine.items() if value.numel()}
    if all_agree(largest(list(mine.values())).isfinite()):
        return []
    return [name for name, value in mine.items() if not bool(value.isfinite().all())] or [ELSEWHERE]


def own_part(value: Any) -> torch.Tensor:
    """What this process holds of a tensor."""
    part = getattr(value, "ds_tensor", value)
    local: torch.Tensor = part.to_local() if hasattr(part, "to_local") else part
    return local.detach()


def largest(values: list[torch.Tensor]) -> torch.Tensor:
    """The largest magnitude, which no value that is no number leaves finite; many tensors in few kernels."""
    return torch.nn.utils.get_total_norm(values, norm_type=math.inf) if values else torch.zeros(())


def all_agree(sound: torch.Tensor) -> bool:
    """Whether it holds in every process."""
    if torch.distributed.is_initialized():
        sound = sound.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu", torch.float32)
        torch.distributed.all_reduce(sound, torch.distributed.ReduceOp.MIN)
    return bool(sound)


def sees_numbers(model: PreTrainedModel, ids: list[int]) -> bool:
    """Whether the model has a finite opinion on what follows some tokens: huge weights overflow before they are lost.

    Weights that are shared out are not tried.
    """
    if not is_whole(model):
        return True
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:TRIED]], device=model.device), use_cache=False).logits
    finally:
        model.train(training)
    return all_agree(logits.isfinite().all())


def is_whole(model: PreTrainedModel) -> bool:
    """Whether this process has all weights: neither ZeRO-3 nor FSDP shares them out."""
    parts = any(hasattr(value, "ds_id") or hasattr(value, "to_local") for value in model.parameters())
    return not parts and not any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
