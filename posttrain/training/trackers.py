"""`launch.report_to`: TensorBoard, Weights & Biases or trackio beside the curve. Their files are no outputs.

They get what the curve gets and more: all that the trainer logs, under TRL's names, and the columns of posttrain's own.
"""

import os
import time
from importlib.util import find_spec
from typing import Any

from posttrain.errors import InputError
from posttrain.params.launch import Launch
from posttrain.paths import TRACKER_LOGS

PROJECT = "posttrain"


def require_trackers(launch: Launch) -> None:
    """Raises: InputError naming the command if a package is not there."""
    for name in launch.report_to:
        if find_spec(name) is None:
            raise InputError(
                "params.yaml: launch.report_to",
                got=f"{name}, which is not installed",
                wanted="packages of this environment only",
                do=f"pip install {name}",
            )


def tracker_kwargs(stage: str, launch: Launch) -> dict[str, Any]:
    """What the trainer's config takes; where trackers write goes through their environment variables.

    Raises: InputError if a package is not there.
    """
    require_trackers(launch)
    if not launch.report_to:
        return {"report_to": "none"}
    run = f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}"
    TRACKER_LOGS.mkdir(parents=True, exist_ok=True)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(TRACKER_LOGS / "tensorboard" / run)
    os.environ.setdefault("WANDB_DIR", str(TRACKER_LOGS))
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    os.environ.setdefault("TRACKIO_DIR", str((TRACKER_LOGS / "trackio").absolute()))
    return {"report_to": [*launch.report_to], "run_name": run, "project": PROJECT}


def trackers_last(handler: Any) -> None:
    """Put trackers behind other callbacks, so that they hear of the columns that ours add."""
    handler.callbacks.sort(key=lambda one: type(one).__module__.startswith("transformers.integrations"))
