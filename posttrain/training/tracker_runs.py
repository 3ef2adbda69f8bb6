"""One run in TensorBoard, in Weights & Biases and in trackio, behind the same four calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

PROJECT = "posttrain"


class TrackedRun(Protocol):
    """A stage's part of a run."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def event(self, name: str, text: str, step: int) -> None: ...

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None: ...

    def close(self) -> None: ...


def tensorboard_run(stage: str, name: str, folder: Path, config: dict[str, Any], *, fresh: bool) -> "TensorBoardRun":
    """All stages write to one folder, each to a file of its own; a stage that starts anew replaces its file."""
    from torch.utils.tensorboard import SummaryWriter

    target = folder / "tensorboard" / name
    for old in target.glob(f"events.*.{stage}") if fresh else []:
        old.unlink()
    return TensorBoardRun(SummaryWriter(str(target), filename_suffix=f".{stage}"), stage, config)


class TensorBoardRun:
    def __init__(self, writer: Any, stage: str, config: dict[str, Any]) -> None:
        import json

        self.writer = writer
        writer.add_text(f"{stage}/params", f"```\n{json.dumps(config, indent=1)}\n```", 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def event(self, name: str, text: str, step: int) -> None:
        self.writer.add_text(name, text, step)

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        self.writer.add_text(name, "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines), step)

    def close(self) -> None:
        self.writer.close()


def cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


class WandbRun:
    """The id of the run is its name, so each stage adds to it; `WANDB_MODE=offline` keeps it on this machine."""

    def __init__(self, stage: str, name: str, folder: Path, config: dict[str, Any], *, fresh: bool) -> None:
        import wandb

        self.tables = wandb.Table
        self.stage = stage
        self.run = wandb.init(project=PROJECT, id=name, name=name, resume="allow", dir=str(folder), config=config)
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "step": step})

    def event(self, name: str, text: str, step: int) -> None:
        self.run.alert(title=name, text=text)
        self.run.log({name: 1, "step": step})

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None:
        self.run.log({name: self.tables(columns=columns, data=rows), "step": step})

    def close(self) -> None:
        self.run.finish()


class TrackioRun:
    """Its steps are those of the stage."""

    def __init__(self, stage: str, name: str, folder: Path, config: dict[str, Any], *, fresh: bool) -> None:
        import trackio

        self.tables = trackio.Table
        self.alerts = trackio.AlertLevel
        self.run = trackio.init(project=PROJECT, name=name, resume="allow", config=config, embed=False)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def event(self, name: str, text: str, step: int) -> None:
        self.run.alert(name, text, level=self.alerts.WARN)
        self.run.log({name: 1}, step=step)

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None:
        self.run.log({name: self.tables(columns=columns, data=rows)}, step=step)

    def close(self) -> None:
        self.run.finish()
