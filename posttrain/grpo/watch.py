"""Watches GRPO while it trains: a probe on problems that no step trains on, and the health monitor's rules acted on.

`ProbeWatch` goes before the curve among the trainer's callbacks, because it adds a column; `HealthWatch` after it,
because it reads the row. Neither draws a random number, so a watched run and an unwatched one are the same bytes until
a rule acts. Weights are kept on the CPU, in the memory of each process (under ZeRO-3 of the first): two copies of what
is trained for `rollback`, one more for `publish: best`.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.errors import InputError
from posttrain.grpo.health import LOST, PROBE, RULES, Finding, Monitor
from posttrain.params.schema import GRPO, Params
from posttrain.training.curve import Curve
from posttrain.training.standstill import METRIC, standstill
from posttrain.training.weights import Weights, lost_weights, sees_numbers

ROLLBACK_FACTOR = 0.5
"""Factor of the learning rate at every rollback."""


def hold_out(rows: list[dict[str, Any]], problems: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the probe and those to train on, both in their order; a hash of the id decides.

    Raises: InputError if nothing would be left to train on.
    """
    if problems >= len(rows) > 0:
        raise InputError(
            "params.yaml: grpo.probe.problems",
            got=f"{problems}, of {len(rows)} training problems",
            wanted="fewer: a problem of the probe is not trained on",
            do="lower grpo.probe.problems, or raise prepare.max_train",
        )
    if problems and any(not row.get("answer") for row in rows):
        raise InputError(
            "params.yaml: grpo.probe.problems",
            got=f"{problems}, of problems without a gold answer",
            wanted="golds, which the probe is scored against",
            do="set it to 0",
        )
    ordered = sorted(rows, key=lambda row: hashlib.sha256(f"probe/{row['id']}".encode()).hexdigest())
    chosen = {row["id"] for row in ordered[:problems]}
    return [row for row in rows if row["id"] in chosen], [row for row in rows if row["id"] not in chosen]


class ProbeWatch(TrainerCallback):
    """Adds `probe/accuracy` to what is logged, every `probe.every_steps` steps, and remembers the best weights."""

    resume_key = "probe"

    def __init__(self, grpo: GRPO, solve: Callable[[], float]) -> None:
        self.probe, self.keeps_best, self.solve = grpo.probe, grpo.publish == "best", solve
        self.values: dict[int, float] = {}
        """Accuracy by step."""
        self.best: Weights | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not self.probe.problems or state.global_step % self.probe.every_steps:
            return
        model = kwargs["model"]
        value = logs[PROBE] = with_rng_preserved(self.solve, model)
        if self.keeps_best and value >= max(self.values.values(), default=value):
            self.best = Weights.of(model, state.global_step)
        self.values[state.global_step] = value

    def resume_state(self) -> dict[str, Any]:
        return {"values": self.values, "best": self.best and vars(self.best)}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        self.values = dict(state["values"])
        self.best = state["best"] and Weights(**state["best"])


def with_rng_preserved(solve: Callable[[], float], model: PreTrainedModel) -> float:
    """What `solve` says, with the random generators and the model's mode as they were before."""
    training = model.training
    try:
        with torch.random.fork_rng():
            return solve()
    finally:
        model.train(training)


class HealthWatch(TrainerCallback):
    """Prints the monitor's findings and does what params ask for.

    `diverged` makes the error that ends a run whose numbers are lost, from a step and what was seen.
    """

    resume_key = "health"

    def __init__(self, params: Params, curve: Curve, ids: list[int], diverged: Callable[[int, str], Exception]) -> None:
        self.monitor, self.curve = Monitor(params), curve
        self.ids, self.diverged = ids, diverged
        self.lost: str | None = None
        """What the last step lost: a weight by its name, or the model's opinion on `ids`."""
        self.findings: list[Finding] = []
        self.rollbacks: list[dict[str, Any]] = []
        self.stopped: Finding | None = None
        health = params.grpo.health
        actions = {name: getattr(health, name).action for name in RULES}
        self.every_rows = health.window
        # A rule speaks up to a window after the sickness began, so a rollback goes back two copies, not one.
        self.kept: deque[Weights] = deque(maxlen=2 if "rollback" in actions.values() else 0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        if self.kept.maxlen and not self.kept:
            self.kept.append(Weights.of(kw["model"], state.global_step))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Lost weights are logged at once: the next generation would fail before the next row."""
        self.lost = next(iter(lost_weights(kw["model"])), None)
        if self.lost is None and not sees_numbers(kw["model"], self.ids):
            self.lost = "log-probabilities"
        control.should_log |= self.lost is not None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        lost = {} if self.lost is None else {LOST + self.lost: math.nan}
        found = self.monitor.observe({**self.curve.rows[-1], **lost})
        self.findings += found
        for finding in found if state.is_world_process_zero else []:
            say(f"step {finding.step}: {finding}")
        actions = {finding.action: finding for finding in reversed(found)}  # the first of the table wins
        if "stop" in actions:
            self._stop(actions["stop"], state, control)
        elif "rollback" in actions:
            self._roll_back(actions["rollback"], state, kwargs)
        elif self.kept.maxlen and not found and len(self.curve.rows) % self.every_rows == 0:
            self.kept.append(Weights.of(kwargs["model"], state.global_step))

    def _stop(self, finding: Finding, state: TrainerState, control: TrainerControl) -> None:
        if finding.rule == "not_finite":
            raise self.diverged(state.global_step, finding.saw)
        self.stopped = finding
        control.should_training_stop = True
        control.should_save = False  # a run that went on from here would not know that it was to stop
        say(f"STOPPED by {finding.rule} with the weights of step {state.global_step}")

    def _roll_back(self, finding: Finding, state: TrainerState, trainer: dict[str, Any]) -> None:
        """Restore the older copy, with empty optimizer moments (they led here) and half the learning rate from now on.

        What is no number is noticed at once, so the newer copy is sound.
        """
        good = self.kept[-1] if finding.rule == "not_finite" else self.kept[0]
        good.restore(trainer["model"])
        self.kept.clear()
        self.kept.append(good)
        trainer["optimizer"].state.clear()
        schedule = trainer["lr_scheduler"]
        schedule = getattr(schedule, "scheduler", schedule)  # accelerate's wrapper
        schedule.base_lrs = [rate * ROLLBACK_FACTOR for rate in schedule.base_lrs]
        for group in trainer["optimizer"].param_groups:
            group["lr"] *= ROLLBACK_FACTOR
        self.monitor.rolled_back()
        peak = max(schedule.base_lrs)
        self.rollbacks.append({"rule": finding.rule, "step": finding.step, "to_step": good.step, "learning_rate": peak})
        say(
            f"ROLLED BACK by {finding.rule} from step {finding.step} to the weights of step {good.step}; the peak "
            f"learning rate is {peak:g} from now on"
        )

    def resume_state(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor.state(),
            "findings": [asdict(finding) for finding in self.findings],
            "rollbacks": self.rollbacks,
            "kept": [vars(weights) for weights in self.kept],
        }

    def load_resume_state(self, state: dict[str, Any]) -> None:
        self.monitor.load(state["monitor"])
        self.findings = [Finding(**finding) for finding in state["findings"]]
        self.rollbacks = list(state["rollbacks"])
        self.kept = deque((Weights(**weights) for weights in state["kept"]), maxlen=self.kept.maxlen)


def say(text: str) -> None:
    tqdm.write(f"grpo | health: {text}")  # print would go through the progress bar


def finalize(model: PreTrainedModel, state: TrainerState, probe: ProbeWatch, health: HealthWatch) -> dict[str, Any]:
    """Put the weights to publish into the model; the content of results/grpo/health.json."""
    published = state.global_step
    if probe.best is not None:
        probe.best.restore(model)
        published = probe.best.step
    return {
        "steps": {"asked": state.max_steps, "trained": state.global_step, "published": published},
        "stopped_by": health.stopped and health.stopped.rule,
        "probe": [{"step": step, "accuracy": value} for step, value in probe.values.items()],
        "rollbacks": health.rollbacks,
        "findings": [asdict(finding) for finding in health.findings],
    }


def health_metrics(outcome: dict[str, Any]) -> dict[str, float]:
    """The part of health.json that belongs among the metrics; a run that was stopped says so there."""
    steps, values = outcome["steps"], [probe["accuracy"] for probe in outcome["probe"]]
    return {
        "health/findings": len(outcome["findings"]),
        **({METRIC: outcome[METRIC]} if METRIC in outcome else {}),
        **({"stopped_at_step": steps["trained"]} if outcome["stopped_by"] else {}),
        **({"published_step": steps["published"]} if steps["published"] != steps["asked"] else {}),
        **({"probe/accuracy_first": values[0], "probe/accuracy": values[-1]} if values else {}),
    }


def closing_lines(outcome: dict[str, Any]) -> list[str]:
    """What the end of a run has to say loudly; nothing after a complete run that moved weights and publishes its last.

    `outcome` is the content of health.json.
    """
    steps, lines = outcome["steps"], []
    if outcome["stopped_by"]:
        lines.append(
            f"STOPPED after {steps['trained']} of {steps['asked']} steps by health rule {outcome['stopped_by']}; "
            f"the weights are those of step {steps['published']}"
        )
    elif steps["published"] != steps["trained"]:
        best = max(probe["accuracy"] for probe in outcome["probe"])
        lines.append(f"publishes step {steps['published']} of {steps['trained']}: probe/accuracy {best:.3g}, the best")
    if (still := standstill(outcome, "the one that it started from")) is not None:
        lines.append(still)
    return lines
