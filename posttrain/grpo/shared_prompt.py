"""A prompt is computed once for its group, not once for each completion.

Within one forward of the model its backbone runs twice: on the different prompts of a batch, whose keys and values are
kept with their gradients, and on the completions, which attend to those of their prompt. Positions are those of the
whole sequences, so log-probabilities are the same up to rounding. One forward, because DDP and DeepSpeed hang on it.
Short completions of a prompt share a row, where no layer has a window.

Where this does not hold, `obstacle` says why.
"""

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from posttrain.grpo.packing import pack

ATTENTION = ("sdpa", "eager")
"""Implementations that take any mask."""
LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers whose memory of a prompt is its keys and values."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Prompts:
    """The different prompts of a batch, padded on the left."""

    ids: torch.Tensor
    mask: torch.Tensor
    of_row: torch.Tensor
    """The prompt of each completion."""
    first: int
    """Position of the first column."""

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, first: int) -> "Prompts":
        """Of the prompts (N, P) of N completions; shorter ones begin with padding."""
        numbers: dict[bytes, int] = {}
        rows = torch.cat([ids, mask.to(ids.dtype)], dim=1).cpu().numpy()
        of_row = [numbers.setdefault(row.tobytes(), len(numbers)) for row in rows]
        places = torch.tensor([of_row.index(number) for number in range(len(numbers))], device=ids.device)
        return cls(ids[places], mask[places], torch.tensor(of_row, device=ids.device), first)


def share_prompts(model: PreTrainedModel) -> None:
    """Have `model(..., prompts=Prompts)` return what follows the prompts; without them its forward is its own.

    `input_ids` are then completions (N, C), `attention_mask` that of whole sequences (N, P + C), and there is a hidden
    state for the end of the prompt before those of the completion: (N, 1 + C).
    """
    backbone = model.base_model
    own = Backbone.of(model, backbone.forward)

    @functools.wraps(type(backbone).forward)
    def shared(_: Any, *args: Any, prompts: Prompts | None = None, **kwargs: Any) -> Any:
        return own.forward(*args, **kwargs) if prompts is None else after_prompts(own, prompts, **kwargs)

    backbone.forward = types.MethodType(shared, backbone)


@dataclass(frozen=True)
class Backbone:
    """A model without its head, and what it needs to be told."""

    forward: Callable[..., Any]
    cache: str
    """The name of its argument for keys and values."""
    packs: bool
    """Whether it takes a mask of ours: with a window, each kind of layer has its own; ALiBi reads positions in it."""
    adds: bool
    """Whether it adds masks to its scores."""

    @classmethod
    def of(cls, model: PreTrainedModel, forward: Callable[..., Any]) -> "Backbone":
        config = model.config.get_text_config()
        named = "cache" in inspect.signature(type(model.base_model).forward).parameters
        window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        full = set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
        packs = full and not window and not getattr(config, "alibi", False)
        return cls(forward, "cache" if named else "past_key_values", packs, config._attn_implementation == "eager")

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache) -> Any:
        if self.adds and mask.ndim == 4:
            dtype = next(iter(cache.layers)).keys.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return self.forward(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **{self.cache: cache}
        )


def after_prompts(
    backbone: Backbone, prompts: Prompts, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any
) -> Any:
    """The backbone's output for completions, each after its prompt."""
    length = prompts.ids.shape[1]
    start = prompts.first + length
    cache = DynamicCache()  # no config: sliding layers keep it all too
    positions = torch.arange(prompts.first, start + input_ids.shape[1], device=input_ids.device)
    before = backbone(prompts.ids, prompts.mask, positions[None, :length], cache)
    said = attention_mask[:, length:].bool()
    packed = pack(said, prompts.of_row) if backbone.packs else None
    if packed is None:
        cache.reorder_cache(prompts.of_row)
        after = backbone(input_ids, attention_mask, positions[None, length:], cache)
        hidden = after.last_hidden_state
    else:
        cache.reorder_cache(packed.of_row_B)
        rows = packed.rows(input_ids, said)
        after = backbone(rows, packed.mask(prompts.mask), start + packed.columns_BW, cache)
        hidden = packed.unpack(after.last_hidden_state)
    ends = before.last_hidden_state[:, -1:].index_select(0, prompts.of_row)
    after.last_hidden_state = torch.cat([ends, hidden], dim=1)
    return after


def obstacle(model: PreTrainedModel, *, fsdp: bool, recomputes: bool) -> str | None:
    """Why the prompts of this model cannot be shared; None if they can.

    It is the same in all processes, whatever their completions: under ZeRO-3 they take the same way or wait for ever.
    """
    config = model.config.get_text_config()
    if fsdp:
        return "launch.strategy is fsdp"
    if recomputes:
        return "activations are recomputed, which keeps no keys and values"
    if other := other_memory(model):
        return other
    if config._attn_implementation not in ATTENTION:
        return f"attention {config._attn_implementation} takes no mask of its own"
    if any(getattr(config, name, None) for name in EXPERTS):
        return "the model is a mixture of experts"
    if dropped := dropout(model):
        return f"dropout of {dropped:g} is another for each completion"
    return None


def other_memory(model: PreTrainedModel) -> str | None:
    """Why keys and values by position are not all that a model keeps of a prompt; None if they are."""
    config = model.config.get_text_config()
    if other := sorted(set(getattr(config, "layer_types", None) or ()) - LAYERS):
        return f"its layers are not attention alone: {', '.join(other)}"
    parameters = inspect.signature(type(model.base_model).forward).parameters
    if getattr(model, "_is_stateful", False) or config.is_encoder_decoder or "position_ids" not in parameters:
        return f"{type(model).__name__} keeps more of a prompt than keys and values by position"
    if any(counts_by_mask(module) for module in model.modules()):
        return f"{type(model).__name__} counts positions without the padding"
    return None


def counts_by_mask(module: torch.nn.Module) -> bool:
    """Whether it embeds positions that a mask tells, as OPT's: absolute ones, which padding shifts."""
    return isinstance(module, torch.nn.Embedding) and "attention_mask" in inspect.signature(module.forward).parameters


def dropout(model: torch.nn.Module) -> float:
    """The highest probability with which a module drops values out while training."""
    found = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    found += [getattr(module, "attention_dropout", 0.0) for module in model.modules()]
    return max((value for value in found if isinstance(value, float)), default=0.0)
