"""The model that is planned for: exact parameter counts from its config, or widths guessed from its size."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.commands.check.estimate import Shape, shape
from posttrain.errors import InputError


@dataclass(frozen=True)
class Decoder:
    """A dense decoder with gated feed-forward layers and RMS norms."""

    name: str
    shape: Shape
    queries: int
    """Width of the queries of one token, all heads together."""
    parameters: int
    adapted: int
    """Parameters that adapters of rank 1 on every linear layer but the output have: inputs and outputs, summed."""

    @property
    def key_value_bytes(self) -> int:
        """Of keys and values of one token in all layers, a byte a number."""
        return 2 * self.shape.layers * self.shape.key_values

    @property
    def largest_layer(self) -> int:
        """The embedding or the output layer, which ZeRO-3 gathers whole."""
        return self.shape.vocab * self.shape.hidden


QKV_BIAS = {"qwen2": True, "qwen3": False, "llama": False, "mistral": False}
"""Model types that are counted to the last parameter, and whether queries, keys and values have biases unless the
config says otherwise."""


def decoder(config: Mapping[str, Any], name: str) -> Decoder:
    """Exact for the types of QKV_BIAS: linear layers, their biases, and every norm.

    Raises: InputError for any other type.
    """
    kind, known = config.get("model_type"), shape(config)
    if known is None or kind not in QKV_BIAS:
        raise InputError(
            name,
            got=f"model_type {kind!r}" if kind not in QKV_BIAS else "a config without the widths of a decoder",
            wanted=f"the config.json of a dense decoder: {', '.join(QKV_BIAS)}",
            do="give --model-size instead; the widths of a Qwen2.5 near that size are then taken",
        )
    hidden, keys, heads = known.hidden, known.key_values, int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    queries, inner = heads * head, known.intermediate
    biased, biases = bool(config.get("attention_bias", QKV_BIAS[kind])), 0
    if biased:
        biases += queries + 2 * keys + (hidden if kind != "qwen2" else 0)
    if config.get("mlp_bias"):
        biases += 2 * inner + hidden
    norms = 2 * hidden + (2 * head if kind == "qwen3" else 0)
    wider = 2 * hidden * (queries - hidden)
    return Decoder(
        name,
        known,
        queries,
        parameters=known.parameters + known.layers * (wider + biases + norms) + hidden,
        adapted=known.layers * (2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner)),
    )


def qwen(hidden: int, intermediate: int, layers: int, heads: int, keys: int, vocab: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocab,
        "tie_word_embeddings": vocab == 151936,
    }


QWEN = {
    "Qwen2.5-0.5B": qwen(896, 4864, 24, 14, 2, 151936),
    "Qwen2.5-1.5B": qwen(1536, 8960, 28, 12, 2, 151936),
    "Qwen2.5-3B": qwen(2048, 11008, 36, 16, 2, 151936),
    "Qwen2.5-7B": qwen(3584, 18944, 28, 28, 4, 152064),
    "Qwen2.5-14B": qwen(5120, 13824, 48, 40, 8, 152064),
    "Qwen2.5-32B": qwen(5120, 27648, 64, 40, 8, 152064),
    "Qwen2.5-72B": qwen(8192, 29568, 80, 64, 8, 152064),
}
"""Whose widths a model has of which only the size is known."""


def of_size(parameters: float) -> Decoder:
    """That many parameters, in the widths of the nearest Qwen2.5. Raises: InputError beyond twice the outermost."""
    known = [decoder(config, name) for name, config in QWEN.items()]
    low, high = known[0].parameters / 2, known[-1].parameters * 2
    if not low <= parameters <= high:
        raise InputError(
            "--model-size",
            got=f"{parameters:g} parameters",
            wanted=f"{low:.2g} to {high:.2g}, where the widths can be guessed",
            do="give --config with the config.json of the model",
        )
    near = min(known, key=lambda model: abs(math.log(model.parameters / parameters)))
    return replace(near, name=f"{parameters:.4g} parameters, widths of {near.name}", parameters=round(parameters))


def from_config(path: Path) -> Decoder:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("no JSON object")
        return decoder(config, str(path))
    except (OSError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            str(path), got=str(error), wanted="the config.json of a model", do="name the file in the model's folder"
        ) from None
