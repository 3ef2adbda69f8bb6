"""This machine's speed in products of two matrices, in TFLOP/s.

Run     python posttrain/commands/check/speed.py, which measures numpy's

On a CPU numpy's products are as fast as torch's, and numpy is imported in a tenth of the time.
"""

import os
import subprocess
import sys
import timeit
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

# A small product is done before another job has its turn; a large one is enough work for a GPU or many threads.
SIZES = {"cpu": (256, 1024), "cuda": (1024, 8192)}
PATIENCE_S = 0.25
"""Of one product. Where a larger one takes longer, a small one says enough: bfloat16 on a CPU without it."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@cache
def numpy_tflops(threads: int) -> float:
    """Of float32, in a process of its own: the number of threads of numpy's library is settled as it is loaded.

    Ctrl-C is this process's to hear: the other one would answer it with a traceback.
    """
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, process_group=0)
    return float(done.stdout)


@cache
def torch_tflops(device: str, dtype: str, threads: int) -> float:
    import torch

    torch.set_num_threads(threads)
    return fastest(lambda size: torch.ones(size, size, dtype=getattr(torch, dtype), device=device), SIZES[device])


def fastest(square: Callable[[int], Any], sizes: tuple[int, ...]) -> float:
    """The fastest of several products, because other jobs only ever make one slower."""
    best = 0.0
    for size in sizes:
        tera = 2 * size**3 / 1e12
        if not best or tera / best < PATIENCE_S:
            best = max(best, tera / seconds(square(size)))
    return best


def seconds(matrix: Any) -> float:
    def product() -> float:
        return float((matrix @ matrix)[0, 0])  # reading a number waits for the device

    product()
    return min(timeit.repeat(product, number=1, repeat=8))


if __name__ == "__main__":
    import numpy as np

    found = fastest(lambda size: np.ones((size, size), dtype=np.float32), SIZES["cpu"])
    with suppress(BrokenPipeError):  # who asked was killed
        os.write(1, str(found).encode())
