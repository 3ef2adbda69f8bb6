"""Memory, time and price of a GRPO run on GPUs before any is rented: arithmetic alone, no torch.

Reads   params.yaml if it is there (batch, lengths, KL, adapters, steps), or flags in its place; a model's config.json
Run     posttrain plan --model-size 7e9 --gpus 8 --gpu-memory-gib 80

Bytes are of one GPU. The sources are ZeRO (arXiv:1910.02054), activation recomputation (arXiv:2205.05198), the
estimators of DeepSpeed and the code of TRL 1.16; docs/plan.md says what is left out.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.check.estimate import GIB, Shape, duration, shape
from stages.errors import InputError
from stages.params import Params, load_params

# ---------------------------------------------------------------------------------------------------------------------
# The model


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


# ---------------------------------------------------------------------------------------------------------------------
# What is asked


@dataclass(frozen=True)
class Precision:
    """Bytes of a parameter."""

    weights: int
    gradients: int
    optimizer: int
    """Adam's two moments, and float32 master weights where the weights are shorter."""


PRECISIONS = {
    "mixed": Precision(2, 2, 12),  # ZeRO, section 3.1: K = 12
    "float32": Precision(4, 4, 8),
    "bfloat16": Precision(2, 2, 4),  # no master weights: everything in the dtype of the weights
}
ADAPTER = Precision(4, 4, 8)
"""PEFT keeps adapters in float32 (`autocast_adapter_dtype`)."""


@dataclass(frozen=True)
class Work:
    """One optimizer step and how many there are."""

    sequences: int
    """prompts_per_step x num_generations."""
    prompt: int
    completion: int
    iterations: int
    steps: int
    reference: bool
    """The KL divergence to a reference is wanted: beta is not 0."""
    rank: int
    adapters: bool
    """Adapters are wanted."""

    @property
    def length(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class Engine:
    """vLLM, which generates in place of transformers."""

    server: bool
    """On GPUs of its own, beside those of the cluster; else in the training processes."""
    tensor_parallel: int
    """GPUs that share a copy of the model: all of a server's."""
    share: float
    """Of a GPU's memory, for weights and KV cache (`gpu_memory_utilization`)."""
    sleeps: bool
    """In the training processes: its memory is free while the optimizer works."""

    @property
    def beside_training(self) -> bool:
        """It holds memory of the GPUs that train while they do."""
        return not (self.server or self.sleeps)


@dataclass(frozen=True)
class Cluster:
    gpus: int
    memory_gib: float
    reserve_gib: float
    tflops: float = 312.0
    """Of one GPU in bfloat16; an A100's data sheet."""
    utilisation: float = 0.4
    """Of that, in training and in the passes over whole sequences."""
    bandwidth: float = 2.0e12
    """Bytes a second out of one GPU's memory; an A100 80 GB's data sheet."""
    link: float = 300e9
    """Bytes a second out of one GPU to the others; NVLink of an A100, one direction."""
    efficiency: float = 0.5
    """Of both bandwidths."""

    @property
    def flops(self) -> float:
        return self.tflops * 1e12 * self.utilisation


def default_reserve_gib(memory_gib: float) -> float:
    """CUDA's context, NCCL and cuBLAS, and a share of the GPU for fragmentation. An assumption."""
    return RESERVE_GIB + RESERVE_SHARE * memory_gib


RESERVE_GIB, RESERVE_SHARE = 1.5, 0.08


@dataclass(frozen=True)
class Strategy:
    name: str
    shards_optimizer: bool = False
    """And gradients: ZeRO-2."""
    shards_weights: bool = False
    adapters: bool = False


DDP, ZERO2 = Strategy("ddp"), Strategy("zero2", shards_optimizer=True)
ZERO3, LORA = Strategy("zero3 / fsdp", shards_optimizer=True, shards_weights=True), Strategy("lora", adapters=True)


def strategies(gpus: int) -> list[Strategy]:
    return [DDP, ZERO2, ZERO3, LORA] if gpus > 1 else [replace(DDP, name="single"), LORA]


# ---------------------------------------------------------------------------------------------------------------------
# Memory


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU. The first six stay; of training, generation and update only one is there at a time.

    Unless generation stays too: vLLM's, where it does not sleep.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    buffers: float
    reserve: float
    activations: float
    logits: float
    generation: float
    update: float
    generation_stays: bool = False

    @property
    def total(self) -> float:
        stays = self.weights + self.gradients + self.optimizer + self.reference + self.buffers + self.reserve
        steps = max(self.activations + self.logits, self.update)
        return stays + (steps + self.generation if self.generation_stays else max(steps, self.generation))


def states(
    model: Decoder, strategy: Strategy, gpus: int, precision: Precision, rank: int
) -> tuple[float, float, float]:
    """Weights, gradients and optimizer states: ZeRO, section 3.1 and figure 1.

    With P parameters on N GPUs in mixed precision 2P + 2P + 12P, of which ZeRO-2 divides gradients and optimizer
    states by N and ZeRO-3 everything. With adapters the weights are frozen and have neither.
    """
    count, trained = model.parameters, precision
    weights = float(precision.weights * count)
    if strategy.adapters:
        count, trained = rank * model.adapted, ADAPTER
        weights += trained.weights * count
    over = gpus if strategy.shards_optimizer else 1
    return (
        weights / (gpus if strategy.shards_weights else 1),
        trained.gradients * count / over,
        trained.optimizer * count / over,
    )


BUCKET = 5e8
"""DeepSpeed's `reduce_bucket_size` and `allgather_bucket_size`, in numbers."""


def buffers(model: Decoder, strategy: Strategy, gpus: int, precision: Precision, rank: int) -> float:
    """DDP reduces copies of all gradients (`gradient_as_bucket_view` is off); ZeRO has two buckets; ZeRO-3 gathers the
    largest layer, weights and gradient, as in DeepSpeed's estimator."""
    if gpus == 1:
        return 0.0
    if strategy.adapters:
        return float(ADAPTER.gradients * rank * model.adapted)
    if not strategy.shards_optimizer:
        return float(precision.gradients * model.parameters)
    buckets = 2 * precision.gradients * min(BUCKET, model.parameters)
    gathered = (precision.weights + precision.gradients) * model.largest_layer
    return buckets + (gathered if strategy.shards_weights else 0)


def layer_bytes(model: Decoder, element: int) -> int:
    """What one layer keeps of one token for its backward pass, counted as in arXiv:2205.05198, section 4.1.

    That paper's 34h + 5as is of a GPT layer with dropout and eager attention. Of transformers' gated layer without
    dropout: rotated queries and the attention's output, keys and values, four intermediate vectors (gate, its
    activation, up, their product), and for each of two norms a float32 copy of the input, the normalised vector and
    the output. Flash or SDPA attention keeps no s x s matrix, so the term 5as is not there.
    """
    attention = 2 * model.queries + 2 * model.shape.key_values
    return element * (attention + 4 * model.shape.intermediate) + 2 * model.shape.hidden * (4 + 2 * element)


def activations(model: Decoder, tokens: int, element: int, checkpointing: bool) -> int:
    """Of one pass over `tokens`. With checkpointing each layer's input (2sbh, arXiv:2205.05198, table 2) and one layer
    in full, the one that is being recomputed."""
    layer, layers, hidden = layer_bytes(model, element), model.shape.layers, model.shape.hidden
    kept = layers * element * hidden + layer if checkpointing else layers * layer
    return tokens * (kept + hidden * (4 + 2 * element))  # and the last norm


TILE_TOKENS, TILE_VOCAB = 4096, 32768


def logits(model: Decoder, micro: int, work: Work, element: int, chunked: bool, adapters: bool) -> float:
    """Between the last hidden state and the loss.

    TRL 1.16 projects tiles of 4096 tokens and 32768 words, and holds float32 gradients of the completions' hidden
    states and, where the output layer trains, of its weights (trl/kernels/chunked_logprob.py). Without it: logits,
    their log-softmax and their gradient, float32, batch x completion x vocabulary.
    """
    vocab, hidden = model.shape.vocab, model.shape.hidden
    if not chunked:
        return 3.0 * 4 * micro * work.completion * vocab
    tokens = micro * work.completion
    tile = min(tokens, TILE_TOKENS) * min(vocab, TILE_VOCAB) * element
    return tile + 4.0 * tokens * hidden + (0 if adapters else 4.0 * vocab * hidden)


def generation(model: Decoder, strategy: Strategy, gpus: int, sequences: int, work: Work, element: int) -> float:
    """KV cache of a GPU's whole share of the step, which TRL generates at once: 2 x layers x key width x tokens.

    And the last token's logits twice in float32; and under ZeRO-3 all weights, which TRL gathers while it generates
    (`ds3_gather_for_generation`).
    """
    cache = element * model.key_value_bytes * sequences * work.length
    gathered = element * model.parameters * (1 - 1 / gpus) if strategy.shards_weights else 0
    return cache + 2 * 4 * sequences * model.shape.vocab + gathered


def held_by(engine: Engine, cluster: Cluster) -> float:
    """What vLLM takes of a GPU that trains, whatever the model: it fills its share with KV cache. TRL hands it the
    weights tensor by tensor, so ZeRO-3 gathers no more than its buffers."""
    return 0.0 if engine.server else engine.share * cluster.memory_gib * GIB


def room(model: Decoder, engine: Engine, work: Work, cluster: Cluster, element: int) -> int:
    """Completions of full length that one vLLM has KV cache for at a time; the others wait."""
    cache = engine.share * cluster.memory_gib * GIB * engine.tensor_parallel - element * model.parameters
    return max(0, int(cache // (element * model.key_value_bytes * work.length)))


def update(model: Decoder, strategy: Strategy, gpus: int, precision: Precision) -> float:
    """A GPU's gradients in float32 while DeepSpeed's optimizer steps: 4P / N, the difference between the 18 bytes a
    parameter of its estimators and the 14 of `states`. None where gradients are float32 already."""
    return 4 * model.parameters / gpus if strategy.shards_optimizer and precision.gradients < 4 else 0.0


@dataclass(frozen=True)
class Row:
    strategy: Strategy
    reference: bool
    checkpointing: bool
    micro: int
    """Sequences per forward and backward pass of one GPU."""
    memory: Memory
    fits: bool
    seconds: float
    """Of one optimizer step."""


# ---------------------------------------------------------------------------------------------------------------------
# Time


def training_s(model: Decoder, strategy: Strategy, checkpointing: bool, work: Work, cluster: Cluster) -> float:
    """6 operations a parameter and token (arXiv:2001.08361, section 2.1), 4 where the weights are frozen, and 2 more to
    recompute; attention's own are left out."""
    operations = (4 if strategy.adapters else 6) + 2 * checkpointing
    return operations * model.parameters * work.sequences * work.length / (cluster.gpus * cluster.flops)


def scoring_s(model: Decoder, reference: bool, work: Work, cluster: Cluster) -> float:
    """2 operations a parameter and token for the reference, and for the old log-probabilities where a batch is used
    more than once; TRL takes those of the update otherwise."""
    passes = reference + (work.iterations > 1)
    return 2 * passes * model.parameters * work.sequences * work.length / (cluster.gpus * cluster.flops)


def generation_s(model: Decoder, work: Work, cluster: Cluster, element: int, engine: Engine | None = None) -> float:
    """Token by token: each reads all weights and the cache, half full on the way, or computes 2 operations a parameter
    and sequence, whichever is longer. Every completion has the full length.

    transformers generates a GPU's whole share at once; vLLM as many as it has room for, and the next as one ends.
    """
    gpus = engine.tensor_parallel if engine else 1
    sequences = work.sequences / (1 if engine and engine.server else cluster.gpus // gpus)
    together = min(sequences, room(model, engine, work, cluster, element)) if engine else sequences
    cache = element * model.key_value_bytes * together * (work.prompt + work.completion / 2)
    reads = (element * model.parameters + cache) / (cluster.efficiency * cluster.bandwidth * gpus)
    computes = 2 * model.parameters * together / (cluster.flops * gpus)
    return sequences / together * (computes * work.prompt + work.completion * max(reads, computes))


def handing_over_s(model: Decoder, engine: Engine | None, cluster: Cluster, element: int) -> float:
    """All weights to a server's GPUs, before each generation."""
    if engine is None or not engine.server:
        return 0.0
    return element * model.parameters / (cluster.efficiency * cluster.link)


def communication_s(
    model: Decoder, strategy: Strategy, micro: int, work: Work, cluster: Cluster, element: int
) -> float:
    """ZeRO, section 7: 2P a step for DDP; for ZeRO-2 P a pass (gradients) and P a step (weights); for ZeRO-3 3P a pass,
    and P a generation. Nothing is hidden behind computation."""
    if cluster.gpus == 1:
        return 0.0
    count = work.rank * model.adapted if strategy.adapters else model.parameters
    passes = work.sequences // cluster.gpus // micro
    volume = 3 * passes + 1 if strategy.shards_weights else passes + 1 if strategy.shards_optimizer else 2
    sent = volume * count * element * (1 - 1 / cluster.gpus)
    return sent / (cluster.efficiency * cluster.link)


# ---------------------------------------------------------------------------------------------------------------------
# The plan


@dataclass(frozen=True)
class Plan:
    model: Decoder
    work: Work
    cluster: Cluster
    precision: str
    chunked: bool
    engine: Engine | None = None

    def memory(self, strategy: Strategy, reference: bool, checkpointing: bool, micro: int) -> Memory:
        model, work, cluster, precision = self.model, self.work, self.cluster, PRECISIONS[self.precision]
        gpus, element, engine = cluster.gpus, precision.weights, self.engine
        share = work.sequences // gpus
        weights, gradients, optimizer = states(model, strategy, gpus, precision, work.rank)
        # Adapters need no second model: TRL's reference is the policy without its adapter.
        frozen = element * model.parameters if reference and not strategy.adapters else 0
        return Memory(
            weights,
            gradients,
            optimizer,
            reference=frozen / (gpus if strategy.shards_weights else 1),
            buffers=buffers(model, strategy, gpus, precision, work.rank),
            reserve=cluster.reserve_gib * GIB,
            activations=activations(model, micro * work.length, element, checkpointing),
            logits=logits(model, micro, work, element, self.chunked, strategy.adapters),
            generation=held_by(engine, cluster) if engine else generation(model, strategy, gpus, share, work, element),
            update=update(model, strategy, gpus, precision),
            generation_stays=engine is not None and engine.beside_training,
        )

    def step_s(self, strategy: Strategy, reference: bool, checkpointing: bool, micro: int) -> float:
        """Seconds of one optimizer step. Generation and scoring are shared by the steps that use one batch."""
        model, work, cluster, engine = self.model, self.work, self.cluster, self.engine
        element = PRECISIONS[self.precision].weights
        once = (
            handing_over_s(model, engine, cluster, element)
            + generation_s(model, work, cluster, element, engine)
            + scoring_s(model, reference, work, cluster)
        )
        moved = communication_s(model, strategy, micro, work, cluster, element)
        return once / work.iterations + training_s(model, strategy, checkpointing, work, cluster) + moved

    def row(self, strategy: Strategy, reference: bool, checkpointing: bool) -> Row:
        """With the largest micro-batch that divides a GPU's share and fits; 1 where none fits."""
        share, budget = self.work.sequences // self.cluster.gpus, self.cluster.memory_gib * GIB
        sizes = [size for size in range(share, 0, -1) if share % size == 0]
        fitting = (size for size in sizes if self.memory(strategy, reference, checkpointing, size).total <= budget)
        micro = next(fitting, 1)
        used = self.memory(strategy, reference, checkpointing, micro)
        seconds = self.step_s(strategy, reference, checkpointing, micro)
        return Row(strategy, reference, checkpointing, micro, used, used.total <= budget, seconds)

    def rows(self) -> list[Row]:
        return [
            self.row(strategy, reference, checkpointing)
            for strategy in strategies(self.cluster.gpus)
            for reference in (True, False)
            for checkpointing in (False, True)
        ]

    def hours(self, row: Row) -> float:
        """GPU-hours of all steps, a server's GPUs among them."""
        return row.seconds * self.work.steps * (self.cluster.gpus + servers_gpus(self.engine)) / 3600


def servers_gpus(engine: Engine | None) -> int:
    return engine.tensor_parallel if engine and engine.server else 0


def recommended(rows: list[Row], work: Work) -> Row | None:
    """The fastest that fits and trains what is wanted: all weights or adapters, with the reference or without. If none
    does, adapters, and then all weights without a reference."""
    wishes = [(work.adapters, work.reference), (True, work.reference), (False, False)]
    for adapters, reference in wishes:
        fitting = [row for row in rows if row.fits and (row.strategy.adapters, row.reference) == (adapters, reference)]
        if fitting:
            return min(fitting, key=lambda row: (row.seconds, row.memory.total))
    return None


COLUMNS = {
    "weights": "weights",
    "grads": "gradients",
    "optim.": "optimizer",
    "ref.": "reference",
    "buffers": "buffers",
    "activ.": "activations",
    "logits": "logits",
    "gener.": "generation",
    "update": "update",
    "total": "total",
}
"""Heading, and field of Memory."""
HEADER = ["strategy", "reference", "recompute", *COLUMNS, "fits", "micro-batch", "s/step", "GPU-h"]


def table(plan: Plan, rows: list[Row], best: Row | None) -> str:
    cells = [HEADER, *(row_cells(plan, row, best) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def row_cells(plan: Plan, row: Row, best: Row | None) -> list[str]:
    flags = ["yes" if flag else "no" for flag in (row.reference, row.checkpointing)]
    gib = [f"{getattr(row.memory, name) / GIB:.1f}" for name in COLUMNS.values()]
    price = [str(row.micro), f"{row.seconds:.3g}", f"{plan.hours(row):.3g}"] if row.fits else ["-"] * 3
    return [row.strategy.name, *flags, *gib, "best" if row is best else "yes" if row.fits else "no", *price]


def assumptions(plan: Plan) -> list[str]:
    model, work, cluster = plan.model, plan.work, plan.cluster
    kind = PRECISIONS[plan.precision]
    return [
        f"model: {model.name}: {model.parameters:,} parameters, {model.shape.layers} layers of {model.shape.hidden}, "
        f"{model.shape.key_values} wide keys, vocabulary {model.shape.vocab}",
        f"step: {work.sequences} completions of {work.completion} tokens after prompts of {work.prompt}, used "
        f"{work.iterations} x; {work.steps} steps; adapters of rank {work.rank} on every linear layer",
        f"memory: GiB of one GPU; {cluster.reserve_gib:.1f} of {cluster.memory_gib:g} are reserved; {plan.precision}: "
        f"{kind.weights} + {kind.gradients} + {kind.optimizer} bytes a parameter (weights, gradients, Adam)",
        generation_text(plan, kind.weights),
        f"time: {cluster.tflops:g} TFLOP/s x {cluster.utilisation:g}; {cluster.bandwidth / 1e9:g} GB/s of memory and "
        f"{cluster.link / 1e9:g} GB/s between GPUs, both x {cluster.efficiency:g}; every completion has full length; "
        "rewards, loading and checkpoints are not counted",
    ]


def generation_text(plan: Plan, element: int) -> str:
    """How the columns make the total, and what generates."""
    model, work, cluster, engine = plan.model, plan.work, plan.cluster, plan.engine
    beside = engine is not None and engine.beside_training
    largest = "activ. + logits and update, and gener. beside it" if beside else "activ. + logits, gener. and update"
    total = f"total: weights to buffers and the reserve, and the largest of {largest}"
    if engine is None:
        cache = element * model.key_value_bytes * work.length * work.sequences // cluster.gpus
        return f"{total}; gener. has {cache / GIB:.1f} of KV cache"
    if engine.server:
        where = f"vLLM on {engine.tensor_parallel} more GPU{'s'[: engine.tensor_parallel != 1]} generates"
    else:
        where = f"gener. is vLLM's on groups of {engine.tensor_parallel}"
    at_once = room(model, engine, work, cluster, element)
    return f"{total}; {where}, {engine.share:g} of a GPU: KV cache for {at_once} completions at a time"


def enough(plan: Plan) -> str:
    """What would fit: GPUs of this size, or this many of another size."""
    best = min(plan.rows(), key=lambda row: row.memory.total)
    reference = "with" if best.reference else "without"

    def fits(gib: int) -> bool:
        larger = replace(plan.cluster, memory_gib=gib, reserve_gib=default_reserve_gib(gib))
        return any(row.fits for row in replace(plan, cluster=larger).rows())

    sizes = range(math.ceil(plan.cluster.memory_gib), LARGEST_GIB)
    needs = sizes[bisect_left(sizes, True, hi=len(sizes) - 1, key=fits)]  # reserve and vLLM's share grow with it
    said = [f"--gpu-memory-gib {needs} ({best.strategy.name}, {reference} a reference)"] if fits(needs) else []
    if best.memory.generation_stays:
        said.append("a smaller --gpu-memory-utilization, or --enable-sleep-mode")
    sequences = plan.work.sequences
    for gpus in (count for count in range(plan.cluster.gpus + 1, sequences + 1) if sequences % count == 0):
        if any(row.fits for row in replace(plan, cluster=replace(plan.cluster, gpus=gpus)).rows()):
            said.append(f"--gpus {gpus}")
            break
    return ", or ".join(said) + "; shorter completions, fewer at a time, or a smaller model need less"


LARGEST_GIB = 2**14


def require_fit(plan: Plan, rows: list[Row]) -> None:
    """Raises: InputError saying what would fit."""
    if any(row.fits for row in rows):
        return
    least = min(rows, key=lambda row: row.memory.total)
    raise InputError(
        f"{plan.cluster.gpus} x {plan.cluster.memory_gib:g} GiB",
        got=f"{least.memory.total / GIB:.1f} GiB a GPU at the least ({least.strategy.name})",
        wanted=f"a strategy that fits into {plan.cluster.memory_gib:g} GiB",
        do=enough(plan),
    )


def require_division(sequences: int, gpus: int) -> None:
    """Raises: InputError naming the nearest numbers of GPUs that divide the step."""
    if sequences % gpus:
        known = [count for count in range(1, sequences + 1) if sequences % count == 0]
        below, above = [count for count in known if count < gpus][-1], [count for count in known if count > gpus][:1]
        near = " or ".join(str(count) for count in (below, *above))
        raise InputError(
            "prompts_per_step x num_generations",
            got=f"{sequences} completions a step on {gpus} GPUs",
            wanted="the same number on every GPU",
            do=f"--gpus {near}, or another --prompts-per-step",
        )


def require_room(plan: Plan) -> None:
    """Raises: InputError if vLLM cannot hold the weights and one completion, or its groups do not divide the GPUs."""
    engine, cluster, element = plan.engine, plan.cluster, PRECISIONS[plan.precision].weights
    if engine is None:
        return
    if not engine.server and cluster.gpus % engine.tensor_parallel:
        raise InputError(
            "--tensor-parallel-size",
            got=f"groups of {engine.tensor_parallel} of {cluster.gpus} GPUs",
            wanted="a number that divides those that train",
            do="change it, or --gpus",
        )
    if not room(plan.model, engine, plan.work, cluster, element):
        weights = element * plan.model.parameters / engine.tensor_parallel / GIB
        one = element * plan.model.key_value_bytes * plan.work.length / engine.tensor_parallel / GIB
        raise InputError(
            "--gpu-memory-utilization",
            got=f"{engine.share:g} x {cluster.memory_gib:g} GiB of a GPU for vLLM",
            wanted=f"{weights:.1f} GiB for the weights and {one:.2f} for the KV cache of one completion",
            do="raise it, or --tensor-parallel-size",
        )


# ---------------------------------------------------------------------------------------------------------------------
# The command

DEFAULTS: dict[str, Any] = {
    "prompts_per_step": 32,
    "num_generations": 16,
    "num_iterations": 1,
    "max_completion_length": 1024,
    "max_steps": 500,
}
"""In place of params.yaml, where there is none and no flag."""
PROMPT_LENGTH, RANK = 256, 16
SHARES = {"colocate": 0.3, "server": 0.9}
"""Of a GPU's memory for vLLM."""


def work_of(flags: Mapping[str, Any], params: Params | None) -> Work:
    """A flag wins over params.yaml, that over DEFAULTS. params.yaml does not say how long prompts are."""

    def value(name: str) -> int:
        given = flags.get(name)
        if given is not None:
            return int(given)
        return int(getattr(params.grpo, name) if params else DEFAULTS[name])

    lora = params.model.lora if params else None
    return Work(
        sequences=value("prompts_per_step") * value("num_generations"),
        prompt=int(flags.get("prompt_length") or PROMPT_LENGTH),
        completion=value("max_completion_length"),
        iterations=value("num_iterations"),
        steps=value("max_steps"),
        reference=params.grpo.beta > 0 if params else True,
        rank=int(flags.get("lora_rank") or (lora.r if lora else RANK)),
        adapters=lora is not None,
    )


def engine_of(flags: Mapping[str, Any], params: Params | None) -> Engine | None:
    """vLLM as flags, then params.yaml ask for it; None where transformers generates."""
    ours = params.launch.vllm if params and params.grpo.use_vllm else None
    mode = flags.get("vllm") or (ours.mode if ours else "no")
    if mode == "no":
        return None
    return Engine(
        server=mode == "server",
        tensor_parallel=int(flags.get("tensor_parallel_size") or (ours.tensor_parallel_size if ours else 1)),
        share=float(flags.get("gpu_memory_utilization") or (ours.gpu_memory_utilization if ours else SHARES[mode])),
        sleeps=mode == "colocate" and bool(flags.get("enable_sleep_mode") or (ours and ours.enable_sleep_mode)),
    )


def cluster_of(flags: Mapping[str, Any]) -> Cluster:
    memory_gib = float(flags["gpu_memory_gib"])
    reserve = flags.get("reserve_gib")
    known = Cluster(int(flags["gpus"]), memory_gib, default_reserve_gib(memory_gib) if reserve is None else reserve)
    units = {"tflops": 1.0, "utilisation": 1.0, "bandwidth": 1e9, "link": 1e9, "efficiency": 1.0}
    given = {name: flags[name] * unit for name, unit in units.items() if flags.get(name) is not None}
    return replace(known, **given)


def run(flags: Mapping[str, Any], params_path: Path) -> None:
    """Print the table, the assumptions and the recommendation.

    Raises: InputError if nothing fits, after the table, or if the batch cannot be divided.
    """
    params = load_params(params_path) if params_path.is_file() else None
    model = from_config(Path(flags["config"])) if flags.get("config") else of_size(flags["model_size"])
    work, cluster, engine = work_of(flags, params), cluster_of(flags), engine_of(flags, params)
    plan = Plan(model, work, cluster, flags.get("precision") or "mixed", not flags["full_logits"], engine)
    require_division(plan.work.sequences, plan.cluster.gpus)
    require_room(plan)
    rows = plan.rows()
    best = recommended(rows, plan.work)
    print(table(plan, rows, best))
    print()
    for line in [*assumptions(plan), f"lengths and batch: flags, then {params_path if params else 'defaults of plan'}"]:
        print(line)
    require_fit(plan, rows)
    if best is not None:
        print(closing_line(plan, best))


def closing_line(plan: Plan, best: Row) -> str:
    wanted = (plan.work.adapters, plan.work.reference)
    kind = "adapters" if plan.work.adapters else "all weights"
    short = f" | {kind} {'with' if plan.work.reference else 'without'} a reference, as wanted, do not fit"
    return (
        f"plan | {best.strategy.name}, {'with' if best.reference else 'without'} a reference, "
        f"{'recomputing' if best.checkpointing else 'keeping'} activations, micro-batch {best.micro} | "
        f"{best.memory.total / GIB:.1f} of {plan.cluster.memory_gib:g} GiB | {best.seconds:.3g} s/step, "
        f"{duration(best.seconds * plan.work.steps)}, {plan.hours(best):.3g} GPU-hours"
        f"{short if (best.strategy.adapters, best.reference) != wanted else ''}"
    )
