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

from posttrain.grpo.batch_rewards import BatchRewards
from posttrain.grpo.curve import GRPOCurve
from posttrain.grpo.trainer import Trainer, trainer_config
from posttrain.outputs.manifest import read_jsonl
from posttrain.params.file import load_params
from posttrain.params.schema import Params
from posttrain.paths import PARAMS, PREPARED, SFT_MODEL
from posttrain.rewards.scoring import Scoring
from posttrain.training.config import start
from posttrain.training.pretrained import load_tokenizer

WINDOW = 10


class Until(TrainerCallback):
    """Ends training where the moving mean reaches the target; after the curve among the callbacks."""

    def __init__(self, curve: GRPOCurve, target: float) -> None:
        self.curve, self.target = curve, target
        self.reached: int | None = None

    def accuracy(self) -> float:
        rows = self.curve.rows[-WINDOW:]
        return statistics.fmean(row.get("sampling/reward/accuracy", row["reward/accuracy"]) for row in rows)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.reached is None and len(self.curve.rows) >= WINDOW and self.accuracy() >= self.target:
            self.reached = state.global_step
            control.should_training_stop = True


class Benchmarked(Trainer):
    def __init__(self, *args: Any, target: float, **kwargs: Any) -> None:
        self.target = target
        super().__init__(*args, **kwargs)

    def watchers(self) -> list[TrainerCallback]:
        self.until = Until(self.curve, self.target)
        return [self.curve, self.sampling.spare, self.until]


def measure(params: Params, target: float) -> str:
    rows = read_jsonl(PREPARED / "train.jsonl")
    start(params.seed, params.launch)
    with (
        Scoring(params.rewards, params.verifier, params.launch.reward_workers) as scoring,
        tempfile.TemporaryDirectory() as folder,
    ):
        size = params.grpo.num_generations
        trainer = Benchmarked(
            params,
            SFT_MODEL,
            load_tokenizer(str(SFT_MODEL), params.model),
            BatchRewards(scoring, rows, size),
            trainer_config(params, Path(folder)),
            target=target,
        )
        until, curve = trainer.until, trainer.curve
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
    batch = params.grpo.prompts_per_step * size
    generated = sum(row.get("sampling/generated", batch) for row in curve.rows)
    flat = statistics.fmean(row["reward/zero_std_frac"] for row in curve.rows)
    fields = [
        params.seed,
        params.grpo.dynamic_sampling.max_rounds,
        until.reached or f"not by {len(curve.rows)}",
        f"{generated:.0f}",
    ]
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
