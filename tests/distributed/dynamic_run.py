"""GRPO with dynamic sampling on a tiny model, groups split between processes: `torchrun dynamic_run.py MODEL OUT`."""

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig

from posttrain.grpo import curve as grpo_curve
from posttrain.grpo.dynamic import DynamicSampling, SparePrompts
from posttrain.worker import leave

PROBLEMS = 12
LAYOUTS = ((4, 3), (3, 4))
"""Size and number of groups. In two processes the second of three is split; groups of three only go in pairs."""


class Recorder(DynamicSampling):
    rounds: list[list[tuple[int, list[int]]]]
    batches: list[dict[str, Any]]

    def _roll_out(self, examples: list[dict[str, Any]]) -> Any:
        batch = super()._roll_out(examples)
        self.rounds.append(gather_object([(rollout.example["number"], rollout.ids) for rollout in batch.rollouts]))
        return batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        ids = zip(output["completion_ids"], output["completion_mask"], strict=True)
        self.batches.append(
            {
                "ids": gather_object([row[mask.bool()].tolist() for row, mask in ids]),
                "advantages": gather_object(output["advantages"].tolist()),
            }
        )
        return output


def solved(number: int) -> bool:
    return number % 3 != 0


def spread_of(size: int) -> Any:
    def accuracy(completions: list[Any], number: list[int], **_: Any) -> list[float]:
        """1 for solved problems; of others for the completion at the first place of its group."""
        first = PartialState().process_index * len(number)
        return [float(solved(n) or (first + place) % size == 0) for place, n in enumerate(number)]

    return accuracy


def run(model: Path, folder: Path, size: int, groups: int) -> dict[str, Any]:
    state = PartialState(cpu=True)
    rows = [{"prompt": [{"role": "user", "content": "x" * (1 + n)}], "number": n} for n in range(PROBLEMS)]
    spare = SparePrompts(PROBLEMS, 1, 2)
    curve = grpo_curve.GRPOCurve(["accuracy"])
    trainer = Recorder(
        model=str(model),
        reward_funcs=[spread_of(size)],
        args=GRPOConfig(
            output_dir=str(folder / "trainer"),
            per_device_train_batch_size=groups * size // state.num_processes,
            num_generations=size,
            max_completion_length=6,
            max_steps=3,
            logging_steps=1,
            learning_rate=0.01,
            beta=0.01,
            scale_rewards="none",
            seed=1,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[curve, spare],
    )
    trainer.rounds, trainer.batches, trainer.spare, curve.trainer = [], [], spare, trainer
    trainer.train()
    drawn = gather_object([spare.drawn])
    weights = gather_object([sum(float(value.double().sum()) for value in trainer.model.parameters())])
    found = {"processes": state.num_processes, "rounds": trainer.rounds, "batches": trainer.batches}
    return {**found, "drawn": drawn, "weights": weights, "rows": curve.rows}


def main(model: Path, out: Path) -> None:
    found = [run(model, out.parent, size, groups) for size, groups in LAYOUTS]
    if PartialState().is_main_process:
        out.write_text(json.dumps(found))
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
