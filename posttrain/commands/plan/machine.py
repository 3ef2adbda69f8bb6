"""What trains, by its data sheet or by measurement, and how its GPUs share a model."""

from dataclasses import dataclass, replace

GIB = 2**30

RESERVE_GIB, RESERVE_FRAC = 1.5, 0.08
"""Memory of a GPU that is not there for tensors: CUDA's context, NCCL and cuBLAS, and a share for fragmentation. An
assumption."""


@dataclass(frozen=True)
class Machine:
    """GPUs, or processes on a CPU, that have equal parts of a step."""

    gpus: int
    memory_gib: float
    """Memory of one GPU."""
    reserve_gib: float | None = None
    """Memory that is not there for tensors; None for the assumption above."""
    tflops: float = 312.0
    """TFLOP/s of one GPU in bfloat16; an A100's data sheet."""
    utilisation: float = 0.4
    """Share of the TFLOP/s that training and passes over whole sequences reach."""
    bandwidth: float = 2.0e12
    """Bytes a second out of one GPU's memory; an A100 80 GB's data sheet."""
    link: float = 300e9
    """Bytes a second out of one GPU to the others; NVLink of an A100, one direction."""
    efficiency: float = 0.5
    """Share of both bandwidths that is reached."""
    triton: bool = True
    """TRL's kernels score completions alone, a tile of logits in place. Without Triton, as on a CPU, torch scores
    prompts too and copies the tile."""
    pass_s: float = 0.0
    """Seconds of Python in a forward pass of transformers, whatever it computes."""
    layer_s: float = 0.0
    """Seconds of Python in each of its layers."""

    @property
    def flops(self) -> float:
        """Operations a second that one GPU reaches."""
        return self.tflops * 1e12 * self.utilisation

    @property
    def reserve(self) -> float:
        """Bytes that are not there for tensors."""
        gib = RESERVE_GIB + RESERVE_FRAC * self.memory_gib if self.reserve_gib is None else self.reserve_gib
        return gib * GIB


@dataclass(frozen=True)
class Strategy:
    """What is divided over the GPUs, and what is trained."""

    name: str
    shards_optimizer: bool = False
    """Divides optimizer states and gradients: ZeRO-2."""
    shards_weights: bool = False
    """Divides weights: ZeRO-3."""
    adapters: bool = False
    """Trains adapters alone."""
    offloads: bool = False
    """Keeps weights, gradients and optimizer states in the machine's memory: `launch.offload: all`."""


DDP, ZERO2 = Strategy("ddp"), Strategy("zero2", shards_optimizer=True)
ZERO3, LORA = Strategy("zero3 / fsdp", shards_optimizer=True, shards_weights=True), Strategy("lora", adapters=True)
LORA_ZERO3 = replace(ZERO3, name="lora, zero3", adapters=True)
OFFLOAD = replace(ZERO3, name="zero3, launch.offload: all", offloads=True)

SOLD_GIB = (16, 24, 32, 40, 48, 80, 96, 141, 192, 288)
"""Memory of GPUs that there are, by their data sheets."""
