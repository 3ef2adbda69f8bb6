"""Seconds of one optimizer step, by formula."""

from posttrain.commands.plan.memory import room
from posttrain.commands.plan.model import Decoder
from posttrain.commands.plan.request import Cluster, Engine, Strategy, Work


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
