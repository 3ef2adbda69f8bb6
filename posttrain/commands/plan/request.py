"""What `posttrain plan` is asked: precision, batch, engine, cluster, strategies."""

from dataclasses import dataclass, replace


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
