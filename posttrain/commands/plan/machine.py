"""What trains: GPUs by their data sheet, or any machine by what was measured on it."""

from dataclasses import dataclass

GIB = 2**30

RESERVE_GIB, RESERVE_FRAC = 1.5, 0.08
"""What a GPU's processes need besides tensors: CUDA's context, NCCL and cuBLAS; and of its memory, lost to
fragmentation. Assumptions."""


@dataclass(frozen=True)
class Machine:
    """GPUs, or processes on a CPU, that have equal parts of a step."""

    gpus: int
    memory_gib: float
    """Memory of one GPU."""
    reserve_gib: float | None = None
    """What is not there for tensors; None for RESERVE_GIB and RESERVE_FRAC."""
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
    """TRL's kernels work on a tile of logits in place. Without Triton, as on a CPU, torch copies it."""
    pass_s: float = 0.0
    """Seconds of Python for one forward pass, whatever it computes. Data sheets have none."""
    layer_s: float = 0.0
    """Seconds of Python for each layer of it."""

    @property
    def flops(self) -> float:
        return self.tflops * 1e12 * self.utilisation

    @property
    def reserve(self) -> float:
        """Bytes."""
        gib = RESERVE_GIB + RESERVE_FRAC * self.memory_gib if self.reserve_gib is None else self.reserve_gib
        return gib * GIB
