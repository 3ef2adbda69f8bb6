"""Steps and completions that GRPO takes to a training accuracy, with and without dynamic sampling.

Reads   models/sft/, data/prepared/train.jsonl, params.yaml
Writes  a line a run to standard output
Run     python -m benchmarks.dynamic_sampling --rounds 0 2 --seeds 1 2 3

The accuracy is that of all completions generated, a moving mean over 10 steps; a run ends where it reaches the target.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from posttrain.grpo import curve as grpo_curve
from posttrain.grpo import trainer as grpo_trainer
from posttrain.grpo.dynamic import SparePrompts
from posttrain.outputs.manifest import read_jsonl
from posttrain.params.file import load_params
from posttrain.params.schema import Params
from posttrain.paths import PARAMS, PREPARED, SFT_MODEL
from posttrain.rewards.scoring import Scoring
from posttrain.training.config import start
from posttrain.training.models import align_special_tokens, load_tokenizer

WINDOW = 10


class Until(TrainerCallback):
    """Ends training where the moving mean reaches the target; after the curve among the callbacks."""

    def __init__(self, curve: grpo_curve.GRPOCurve, target: float) -> None:
        self.curve, self.target = curve, target
        self.reached: int | None = None

    def accuracy(self) -> float:
        rows = self.curve.rows[-WINDOW:]
        return statistics.fmean(row.get("sampling/reward/accuracy", row["reward/accuracy"]) for row in rows)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.reached is None and len(self.curve.rows) >= WINDOW and self.accuracy() >= self.target:
            self.reached = state.global_step
            control.should_training_stop = True


def measure(params: Params, target: float) -> str:
    rows = read_jsonl(PREPARED / "train.jsonl")
    start(params.seed, params.launch)
    with (
        Scoring(params.rewards, params.verifier, params.launch.reward_workers) as scoring,
        tempfile.TemporaryDirectory() as folder,
    ):
        tokenizer = load_tokenizer(str(SFT_MODEL), params.model)
        curve = grpo_curve.GRPOCurve(scoring.params)
        until = Until(curve, target)
        size = params.grpo.num_generations
        spare = SparePrompts(len(rows), params.seed, params.grpo.dynamic_sampling.max_rounds)
        trainer = grpo_trainer.DynamicTrainer(
            model=str(SFT_MODEL),
            reward_funcs=[grpo_trainer.reward_function(name, scoring, rows, size) for name in scoring.params],
            args=grpo_trainer.trainer_config(params, Path(folder)),
            train_dataset=grpo_trainer.to_dataset(rows, params),
            processing_class=tokenizer,
            callbacks=[curve, spare, until],
        )
        trainer.scoring, trainer.rows, trainer.spare, curve.trainer = scoring, rows, spare, trainer
        align_special_tokens(trainer.model, tokenizer)
        trainer.remove_callback(PrinterCallback)
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
    batch = params.grpo.prompts_per_step * size
    generated = sum(row.get("sampling/generated", batch) for row in curve.rows)
    flat = statistics.fmean(row["reward/zero_std_frac"] for row in curve.rows)
    fields = [params.seed, spare.max_rounds, until.reached or f"not by {len(curve.rows)}", f"{generated:.0f}"]
    return "RESULT | " + " | ".join(map(str, [*fields, f"{until.accuracy():.3f}", f"{flat:.2f}", f"{seconds:.0f} s"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--target", type=float, default=0.82)
    arguments = parser.parse_args()
    params = load_params(PARAMS)
    for seed in arguments.seeds:
        for rounds in arguments.rounds:
            dynamic = params.grpo.dynamic_sampling.model_copy(update={"max_rounds": rounds})
            tuned = params.grpo.model_copy(update={"dynamic_sampling": dynamic})
            print(measure(params.model_copy(update={"grpo": tuned, "seed": seed}), arguments.target), flush=True)


if __name__ == "__main__":
    main()
