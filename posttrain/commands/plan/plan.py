"""Every strategy for one request: what it takes, whether it fits, how long it lasts."""

from dataclasses import dataclass

from posttrain.commands.check.estimate import GIB
from posttrain.commands.plan.memory import Memory, activations, buffers, generation, held_by, logits, states, update
from posttrain.commands.plan.model import Decoder
from posttrain.commands.plan.request import PRECISIONS, Cluster, Engine, Strategy, Work, strategies
from posttrain.commands.plan.seconds import communication_s, generation_s, handing_over_s, scoring_s, training_s


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
