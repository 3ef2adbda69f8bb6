"""Sizes of a dense decoder: counted from its config.json, or guessed from its number of parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.outputs.json_files import read_object

QKV_BIAS = {"qwen2": True, "qwen3": False, "llama": False, "mistral": False}
"""Model types that are counted to the last parameter, and whether queries, keys and values have biases unless the
config says otherwise."""


@dataclass(frozen=True)
class Model:
    """A dense decoder with gated feed-forward layers and RMS norms."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    vocab: int
    queries: int
    """Width of the queries of one token, all heads together."""
    key_values: int
    """Width of the keys of one token, all heads together."""
    parameters: int
    adapter: int
    """Parameters of adapters of rank 1 on every linear layer but the output: inputs and outputs, summed."""

    @property
    def largest_layer(self) -> int:
        """Parameters of the embedding or the output layer, which ZeRO-3 gathers whole."""
        return self.vocab * self.hidden

    def layer_activations(self, element: int) -> int:
        """Bytes that one layer keeps of one token for its backward pass, counted as in arXiv:2205.05198, section 4.1.

        Its 34h + 5as is a GPT layer with dropout and eager attention. A gated layer of transformers keeps rotated
        queries and the attention's output, keys and values, four intermediate vectors (gate, its activation, up, their
        product), and for each of two norms a float32 copy of the input, the normalised vector and the output. Flash
        and SDPA attention keep no s x s matrix.
        """
        vectors = 2 * self.queries + 2 * self.key_values + 4 * self.intermediate
        return element * vectors + 2 * self.hidden * (4 + 2 * element)

    def activations(self, element: int, recompute: bool) -> int:
        """Bytes that a pass keeps of one token. Recomputing: each layer's input (2sbh, arXiv:2205.05198, table 2) and
        one layer in full, the one that is being recomputed."""
        layer = self.layer_activations(element)
        kept = self.layers * element * self.hidden + layer if recompute else self.layers * layer
        return kept + self.hidden * (4 + 2 * element)  # and the last norm


def from_config(config: Mapping[str, Any], name: str) -> Model | None:
    """The sizes that a config.json gives: exact for the types of QKV_BIAS, close for other dense decoders.

    None for a config without the widths of a decoder.
    """
    kind = config.get("model_type")
    try:
        hidden, inner, layers, heads, vocab = (int(config[key]) for key in WIDTHS)
        head = int(config.get("head_dim") or hidden // heads)
        queries, keys = head * heads, head * int(config.get("num_key_value_heads") or heads)
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    adapter = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner)
    layer = 2 * hidden * (queries + keys) + 3 * hidden * inner + 2 * hidden
    if config.get("attention_bias", QKV_BIAS.get(str(kind), False)):
        layer += queries + 2 * keys + (hidden if kind != "qwen2" else 0)
    if config.get("mlp_bias"):
        layer += 2 * inner + hidden
    if kind == "qwen3":
        layer += 2 * head
    outer = vocab * hidden * (1 if config.get("tie_word_embeddings") else 2) + hidden
    return Model(name, hidden, inner, layers, vocab, queries, keys, outer + layers * layer, layers * adapter)


WIDTHS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def qwen(hidden: int, intermediate: int, layers: int, heads: int, keys: int, vocab: int) -> dict[str, Any]:
    widths = dict(zip(WIDTHS, (hidden, intermediate, layers, heads, vocab), strict=True))
    return {"model_type": "qwen2", **widths, "num_key_value_heads": keys, "tie_word_embeddings": vocab == 151936}


QWEN = {
    "Qwen2.5-0.5B": qwen(896, 4864, 24, 14, 2, 151936),
    "Qwen2.5-1.5B": qwen(1536, 8960, 28, 12, 2, 151936),
    "Qwen2.5-3B": qwen(2048, 11008, 36, 16, 2, 151936),
    "Qwen2.5-7B": qwen(3584, 18944, 28, 28, 4, 152064),
    "Qwen2.5-14B": qwen(5120, 13824, 48, 40, 8, 152064),
    "Qwen2.5-32B": qwen(5120, 27648, 64, 40, 8, 152064),
    "Qwen2.5-72B": qwen(8192, 29568, 80, 64, 8, 152064),
}
"""Configs whose widths are taken where only the size of a model is known."""


def of_size(parameters: float) -> Model:
    """A model of that many parameters, in the widths of the nearest Qwen2.5.

    Raises: InputError beyond twice the outermost.
    """
    known = [model for name, config in QWEN.items() if (model := from_config(config, name))]
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


def of_file(path: Path) -> Model:
    """The model of a config.json. Raises: InputError unless it can be counted to the last parameter."""
    config = read_object(path, "name another, or give --model-size")
    kind, model = str(config.get("model_type")), from_config(config, str(path))
    problem = "no widths of a decoder" if kind in QKV_BIAS else f"model_type {kind!r:.60}"
    if model is None or kind not in QKV_BIAS:
        wanted = f"the config.json of a dense decoder: {', '.join(QKV_BIAS)}"
        do = "name another, or give --model-size: the widths of a Qwen2.5 near that size are then taken"
        raise InputError(str(path), got=problem, wanted=wanted, do=do)
    return model
