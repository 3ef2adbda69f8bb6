"""The trainer's callback that tells trackers what the curve gets, and more."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.params.schema import Params
from posttrain.training.curve import Curve
from posttrain.training.trackers import Trackers, figures


class Tracked(TrainerCallback):
    """Hands on each row of the curve, and what TRL logs beyond it. Comes after the curve, which makes the row.

    `findings` are the health monitor's, as they come.
    """

    def __init__(self, stage: str, params: Params, curve: Curve, findings: Callable[[], Sequence[Any]] = tuple) -> None:
        self.stage, self.params, self.curve, self.findings = stage, params, curve, findings
        self.told = 0
        self.trackers: Trackers | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.trackers = Trackers(self.stage, self.params, fresh=state.global_step == 0)
            self.told = len(self.findings())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if self.trackers is None or logs is None or "loss" not in logs:
            return
        row = {name: value for name, value in self.curve.rows[-1].items() if name != "step"}
        more = {f"trl/{name}": value for name, value in logs.items() if name not in self.curve.names}
        more = {name: value for name, value in more.items() if name.removeprefix("trl/") not in row}
        self.trackers.scalars(row | figures(more), state.global_step)
        for finding in self.findings()[self.told :]:
            self.trackers.event(f"health/{finding.rule}", str(finding), finding.step)
        self.told = len(self.findings())

    def finish(self, metrics: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """The final figures and samples; the stage is over."""
        if self.trackers is None:
            return
        step = int(self.curve.rows[-1]["step"]) if self.curve.rows else 0
        final = {f"final/{self.stage}/{name}": value for name, value in figures(metrics).items()}
        self.trackers.scalars(final, step)
        self.trackers.table("samples", samples, step)
        self.trackers.close()
