"""Bytes of one GPU, by formula."""

from dataclasses import dataclass

from posttrain.commands.check.estimate import GIB
from posttrain.commands.plan.model import Decoder
from posttrain.commands.plan.request import ADAPTER, Cluster, Engine, Precision, Strategy, Work


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
