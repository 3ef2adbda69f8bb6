"""What both trainer configs take, and the seeds and threads that a stage starts with."""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging

from posttrain.launch.layout import layout
from posttrain.params.launch import Launch
from posttrain.params.schema import Optimisation


def start(seed: int, launch: Launch) -> None:
    """Seed Python, NumPy and torch, and fix the number of threads."""
    set_seed(seed)
    settle(launch)


def settle(launch: Launch) -> None:
    """Fix the number of threads, and keep transformers quiet; draws nothing and seeds nothing."""
    logging.disable_progress_bar()
    # trl 1.16 reads the name that transformers 5.24 deprecates.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if threads := layout(launch).threads:
        torch.set_num_threads(threads)


def optimisation_kwargs(params: Optimisation, seed: int, launch: Launch, output_dir: Path) -> dict[str, Any]:
    """What both trainer configs take: the shared params under transformers' names, and no side effects."""
    return {
        **{name: getattr(params, name) for name in Optimisation.model_fields},
        "seed": seed,
        "use_cpu": layout(launch).device == "cpu",
        "output_dir": str(output_dir),
        "bf16": launch.mixed_precision == "bf16",  # TRL would switch it on by itself
        "activation_checkpointing": launch.activation_checkpointing,
        "ddp_find_unused_parameters": False,
        "save_strategy": "no",
        "logging_nan_inf_filter": False,  # it would log a loss that is no number as the mean of those before
        "report_to": "none",  # trackers are told by our own callback
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
