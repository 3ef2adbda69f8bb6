"""What the shell around a command may not decide: who is a worker, and in which precision it computes.

Kubeflow, SageMaker, torchrun and MPI export ranks; accelerate takes whatever starts with its name for an answer. A
process of ours is a worker if posttrain started it as one, and params.yaml says the rest.
"""

import os
import re
import sys

WORKER = "POSTTRAIN_WORKER"
"""Environment variable that posttrain, and nobody else, gives to the processes of a launch."""

FOREIGN = re.compile(
    r"(LOCAL_|GROUP_|NODE_|ROLE_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|MASTER_(ADDR|PORT)|FORK_LAUNCHED"
    r"|PMI_(RANK|SIZE)|(OMPI|MV2)_COMM_WORLD_\w+|MPI_LOCAL\w+|(ACCELERATE|FSDP|TORCHELASTIC|PARALLELISM_CONFIG)_\w+"
    r"|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|(ONEDNN|DNNL)_DEFAULT_FPMATH_MODE"
)
"""Variables of launchers, of accelerate's options and of the precision of products, which torch and accelerate read."""


def is_worker() -> bool:
    """Whether this process is one of those of a launch by posttrain."""
    return WORKER in os.environ


def leave_out_foreign() -> None:
    """Take foreign variables out of this process's environment, with a line that names them; not in a worker, whose
    launcher has set them."""
    if is_worker():
        return
    found = sorted(name for name in os.environ if FOREIGN.fullmatch(name))
    for name in found:
        del os.environ[name]
    if found:
        told = "params.yaml decides, and `launch.processes` how many processes train"
        print(f"posttrain | not read from the environment: {', '.join(found)}; {told}", file=sys.stderr, flush=True)
