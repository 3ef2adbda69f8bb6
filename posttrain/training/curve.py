"""The curve: a line a logging step on the console, the same numbers as rows of a table."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Curve(TrainerCallback):
    """One line a logging step on the console, the same numbers as rows of a table.

    `names` maps what the trainer logs to the names that a person sees; everything else is left out. Seconds are shown
    but not kept: they differ between two equal runs.
    """

    resume_key = "curve"

    def __init__(self, stage: str, names: Mapping[str, str], shown: tuple[str, ...]) -> None:
        self.stage, self.names, self.shown = stage, dict(names), shown
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar = tqdm(total=state.max_steps, desc=self.stage, unit="step", leave=False, disable=None)
        self.started = self.last = time.monotonic()
        self.first = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if "loss" not in logs:  # the summary at the end, which has no step of its own
            return
        row = {"step": state.global_step}
        row |= {name: float(logs[key]) for key, name in self.names.items() if logs.get(key) is not None}
        self.rows.append(row)
        now = time.monotonic()
        steps_s = (now - self.last) / args.logging_steps
        self.last = now
        left_s = (now - self.started) / (state.global_step - self.first) * (state.max_steps - state.global_step)
        fields = [f"{name} {row[name]:.4g}" for name in self.shown if name in row]
        head = f"{self.stage} {state.global_step}/{state.max_steps}"
        tqdm.write(" | ".join([head, *fields, f"{steps_s:.2f} s/step", f"{left_s:.0f} s left"]))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()

    def resume_state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def write(self, path: Path) -> None:
        """A TSV with a column for every name that was ever logged, or for all before any was; `dvc plots` reads it."""
        logged = {name for row in self.rows for name in row} or set(self.names.values())
        columns = ["step", *(name for name in self.names.values() if name in logged)]
        lines = ["\t".join(columns)]
        lines += ["\t".join(f"{row[name]:.6g}" if name in row else "" for name in columns) for row in self.rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def mean(self, name: str, first_frac: float, last_frac: float) -> float | None:
        """Mean of a column over the rows between two fractions of the run; None if it was not logged there."""
        window = self.rows[int(first_frac * len(self.rows)) : max(1, round(last_frac * len(self.rows)))]
        values = [row[name] for row in window if name in row]
        return sum(values) / len(values) if values else None
