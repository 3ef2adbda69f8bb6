"""GRPO with dynamic sampling on a tiny model, groups split between processes: `torchrun dynamic_run.py MODEL OUT`."""

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import AutoTokenizer
from trl import GRPOConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from posttrain.grpo.trainer import Trainer  # noqa: E402
from posttrain.params.file import load_params  # noqa: E402
from posttrain.worker import leave  # noqa: E402
from tests.trainers import FixedRewards  # noqa: E402

PROBLEMS = 12
LAYOUTS = ((4, 3), (3, 4))
"""Size and number of groups. In two processes the second of three is split; groups of three only go in pairs."""


class Recorder(Trainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rounds: list[list[tuple[int, list[int]]]] = []
        self.batches: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def roll_out(self, examples: list[dict[str, Any]]) -> Any:
        batch = super().roll_out(examples)
        self.rounds.append(gather_object([(rollout.example["number"], rollout.ids) for rollout in batch.rollouts]))
        return batch

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super().generate_and_score(inputs)
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
    rows = [{"problem": "x" * (1 + n)} for n in range(PROBLEMS)]
    shipped = load_params(ROOT / "params.yaml")
    dynamic = shipped.grpo.dynamic_sampling.model_copy(update={"max_rounds": 2})
    params = shipped.model_copy(update={"grpo": shipped.grpo.model_copy(update={"dynamic_sampling": dynamic})})
    config = GRPOConfig(
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
    )
    rewards = FixedRewards({"accuracy": spread_of(size)}, rows, size)
    trainer = Recorder(params, model, AutoTokenizer.from_pretrained(model), rewards, config)
    trainer.train()
    drawn = gather_object([trainer.sampling.spare.drawn])
    weights = gather_object([sum(float(value.double().sum()) for value in trainer.model.parameters())])
    found = {"processes": state.num_processes, "rounds": trainer.rounds, "batches": trainer.batches}
    return {**found, "drawn": drawn, "weights": weights, "rows": trainer.curve.rows}


def main(model: Path, out: Path) -> None:
    found = [run(model, out.parent, size, groups) for size, groups in LAYOUTS]
    if PartialState().is_main_process:
        out.write_text(json.dumps(found))
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
