"""Memory and time of a run, from the shape of the model and the speed of the machine: simple formulas, no trial run."""

import math
import timeit
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.commands.check.rules import Finding
from posttrain.params.launch import Launch


@dataclass(frozen=True)
class Shape:
    """What of a model's config decides memory and time."""

    hidden: int
    intermediate: int
    layers: int
    vocab: int
    key_values: int
    """Width of the keys of one token."""
    tied: bool

    @property
    def parameters(self) -> int:
        """Of a decoder with gated feed-forward layers; biases and norms are left out."""
        layer = 2 * self.hidden**2 + 2 * self.hidden * self.key_values + 3 * self.hidden * self.intermediate
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.layers * layer


def shape(config: Mapping[str, Any]) -> Shape | None:
    """None for a config of another kind of model."""
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            vocab=int(config["vocab_size"]),
            key_values=int(config.get("head_dim") or hidden // heads) * int(config.get("num_key_value_heads") or heads),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError:
        return None


BASE_GIB = 0.7
"""Python, torch and the libraries, before any weight."""
GIB = 2**30
UTILISATION = 0.4
"""Of what a large matrix product reaches; fits the embedded recipe and SmolLM2-135M on one and two CPU threads."""


def memory_gib(
    model: Shape,
    sequences: int,
    length: int,
    logits: int,
    weights_bytes: int,
    reference: bool,
    adapters: bool = False,
) -> float:
    """At most, of one process.

    Weights, gradients and two Adam moments, and the reference's weights; of one pass of `sequences` x `length` tokens
    18 hidden and 4 intermediate vectors a layer; three copies of `logits` float32 logits a sequence. Measured within a
    third on SmolLM2-135M. With `adapters` the weights are there once, and a tenth more for what is trained.
    """
    states = model.parameters * weights_bytes * (1.1 if adapters else 4 + reference)
    tokens = sequences * length
    activations = tokens * model.layers * (18 * model.hidden + 4 * model.intermediate) * weights_bytes
    return BASE_GIB + (states + activations + sequences * logits * model.vocab * 4 * 3) / GIB


def sft_step_s(model: Shape, tokens: int, flops: float) -> float:
    """6 operations a parameter and token, and what Python takes for the layers."""
    return 6 * model.parameters * tokens / (UTILISATION * flops) + 3 * overhead_s(model)


def grpo_step_s(model: Shape, sequences: int, prompt: int, completion: int, flops: float) -> float:
    """Generation token by token (2 operations a parameter), the reference's pass (2) and the update (6)."""
    tokens = sequences * (prompt + completion)
    decode = completion * (2 * model.parameters * sequences / (UTILISATION * flops) + overhead_s(model))
    return decode + 8 * model.parameters * tokens / (UTILISATION * flops)


def overhead_s(model: Shape) -> float:
    """Of one forward pass in transformers, whatever it computes."""
    return 0.002 + 0.001 * model.layers


def resources(stage: str, need_gib: float, free_gib: float, seconds: float, device: str) -> Finding:
    name, where = f"memory and time of {stage}", "launch.micro_batch_size"
    saw = f"about {need_gib:.1f} of {free_gib:.1f} GiB free on {device}, about {duration(seconds)}"
    if need_gib <= free_gib:
        return Finding("ok", name, where, saw)
    why = "The run would be killed for its memory, or swap."
    return Finding(
        "warn", name, where, saw, why, "Lower it (the result is the same), or use bfloat16 or a smaller model."
    )


def duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )


@dataclass(frozen=True)
class Machine:
    device: str
    free_gib: float
    memory_gib: float
    flops: float
    """Multiplications and additions a second, in a product of two 1024 x 1024 matrices."""

    @classmethod
    def of(cls, launch: Launch) -> "Machine":
        import torch

        cuda = launch.device != "cpu" and torch.cuda.is_available()
        if launch.threads:
            torch.set_num_threads(launch.threads)
        matrix = torch.ones(1024, 1024, device="cuda" if cuda else "cpu")
        float((matrix @ matrix)[0, 0])
        # The fastest of several, because other jobs only ever make it slower; reading a number waits for the device.
        fastest = min(timeit.repeat(lambda: float((matrix @ matrix)[0, 0]), number=1, repeat=8))
        flops = 2 * 1024**3 / fastest
        if cuda:
            free, memory = torch.cuda.mem_get_info()
            return cls(torch.cuda.get_device_name(), free / GIB, memory / GIB, flops)
        threads = torch.get_num_threads()
        name = f"{threads} CPU thread{'s'[: threads != 1]}"
        return cls(name, system_memory_gib("MemAvailable"), system_memory_gib("MemTotal"), flops)


def system_memory_gib(key: str) -> float:
    """Infinite where the system does not say."""
    path = Path("/proc/meminfo")
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    kib = [int(line.split()[1]) for line in lines if line.startswith(f"{key}:")]
    return kib[0] / 2**20 if kib else math.inf
