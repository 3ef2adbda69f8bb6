"""Seconds of a trainer's steps by phase, stock TRL's and posttrain's alike: methods of the trainer, timed by name.

Writes  a JSON list, one object a step: seconds of `step` and of each phase, `tokens`, and `rss_mib`, the peak so far
"""

import json
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

NAMES = ("generate", "reward", "reference", "forward", "backward")
METHODS = {"_generate": "generate", "_calculate_rewards": "reward"}


class Phases(TrainerCallback):
    def __init__(self, trainer: Any, path: Path) -> None:
        self.path, self.rows, self.seconds = path, [], Counter[str]()
        for method, name in METHODS.items():
            if hasattr(trainer, method):
                setattr(trainer, method, self.timed(getattr(trainer, method), lambda name=name: name))
        if hasattr(trainer, "_get_per_token_logps_and_entropies"):
            scored = trainer._get_per_token_logps_and_entropies
            trainer._get_per_token_logps_and_entropies = self.timed(scored, self.pass_name)
        else:
            trainer.compute_loss = self.timed(trainer.compute_loss, lambda: "forward")
        trainer.accelerator.backward = self.timed(trainer.accelerator.backward, lambda: "backward")
        trainer.add_callback(self)

    @staticmethod
    def pass_name() -> str:
        return "forward" if torch.is_grad_enabled() else "reference"

    def timed(self, function: Callable[..., Any], name: Callable[[], str]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            began, phase = time.perf_counter(), name()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[phase] += time.perf_counter() - began  # type: ignore[assignment]

        return measured

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seconds.clear()
        self.began, self.tokens = time.perf_counter(), state.num_input_tokens_seen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        seconds = {name: self.seconds[name] for name in NAMES if self.seconds[name]}
        rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        tokens = state.num_input_tokens_seen - self.tokens
        step = time.perf_counter() - self.began
        self.rows.append({"step": step, **seconds, "tokens": tokens, "rss_mib": rss_mib})

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.path.write_text(json.dumps(self.rows), encoding="utf-8")
