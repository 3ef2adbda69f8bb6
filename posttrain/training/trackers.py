"""`launch.report_to`: TensorBoard, Weights & Biases or trackio beside the curve. Their files are no outputs.

sft, grpo and evaluate write to one run: its name is made of the params, so the same params give the same run, and other
params another. Names are those of the curve (`reward/accuracy`, `policy/kl_divergence`); one that two stages share has
the stage before it (`sft/loss`, `grpo/loss`). What TRL logs beyond the curve stands under `trl/`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from posttrain.errors import InputError
from posttrain.params.launch import Launch
from posttrain.params.schema import Params
from posttrain.paths import TRACKER_LOGS, project_folder
from posttrain.training.install import install
from posttrain.training.tracker_runs import TrackedRun, TrackioRun, WandbRun, tensorboard_run

REQUIREMENTS = {"tensorboard": "tensorboard>=2.20", "wandb": "wandb>=0.20", "trackio": "trackio>=0.22"}
OPENERS: dict[str, Callable[..., TrackedRun]] = {
    "tensorboard": tensorboard_run,
    "wandb": WandbRun,
    "trackio": TrackioRun,
}
SHORTEN = 2_000
"""Characters of a cell of a table, at most."""


def require_trackers(launch: Launch) -> None:
    """Raises: InputError naming the command if a package is not there."""
    for name in launch.report_to:
        if find_spec(name) is None:
            raise InputError(
                "params.yaml: launch.report_to",
                got=f"{name}, which is not installed",
                wanted="packages of this environment only",
                do=install(REQUIREMENTS[name]),
            )


def place_trackers() -> None:
    """Settle where trackers write, before anything imports them: trackio looks once, and TRL imports it."""
    folder = (project_folder() / TRACKER_LOGS).absolute()
    os.environ.setdefault("WANDB_DIR", str(folder))
    os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))


def run_name(params: Params) -> str:
    """The experiment's name where DVC gives one, else the model's; and a hash of all that decides the result."""
    science = json.dumps(params.model_dump(mode="json", exclude={"launch"}), sort_keys=True)
    words = os.environ.get("DVC_EXP_NAME") or params.model.name_or_path.rstrip("/").rpartition("/")[2]
    return f"{words}-{hashlib.sha256(science.encode()).hexdigest()[:8]}"


class Trackers:
    """A stage's part of the run, in each of the trackers that params name; nothing without any."""

    def __init__(self, stage: str, params: Params, *, fresh: bool = True) -> None:
        require_trackers(params.launch)
        folder, config = project_folder() / TRACKER_LOGS, params.model_dump(mode="json")
        if params.launch.report_to:
            folder.mkdir(parents=True, exist_ok=True)
        self.stage = stage
        self.runs = [
            OPENERS[name](stage, run_name(params), folder, config, fresh=fresh) for name in params.launch.report_to
        ]

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        named = {name if "/" in name else f"{self.stage}/{name}": value for name, value in values.items()}
        for run in self.runs:
            run.scalars(named, step)

    def event(self, name: str, text: str, step: int) -> None:
        for run in self.runs:
            run.event(name, text, step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Rows of any form, as text; their columns are those of the first."""
        flat = [{key: str(value)[:SHORTEN] for key, value in leaves(row)} for row in rows]
        columns = list(flat[0]) if flat else []
        for run in self.runs if flat else []:
            run.table(f"{self.stage}/{name}", columns, [[row.get(key, "") for key in columns] for row in flat], step)

    def close(self) -> None:
        for run in self.runs:
            run.close()


@contextmanager
def trackers(stage: str, params: Params) -> Iterator[Trackers]:
    opened = Trackers(stage, params)
    try:
        yield opened
    finally:
        opened.close()


def leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, with the keys that lead to each."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}/")
        else:
            yield above + key, value


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics file, nested or not."""
    return {name: float(value) for name, value in leaves(metrics) if isinstance(value, int | float)}
