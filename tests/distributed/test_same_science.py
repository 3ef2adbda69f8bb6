"""The number of processes and the size of a pass change no result: the same rows, the same loss, whole groups.

What is drawn at random differs between layouts, since each process has a generator of its own; so GRPO is compared on
completions that depend on their prompt and their place in the group alone.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.forks import Run, workspace

EXHAUSTIVE = pytest.mark.exhaustive
PASSES = ((1, 2), (2, 4), pytest.param(4, 2, marks=EXHAUSTIVE), pytest.param(8, 1, marks=EXHAUSTIVE))
"""Processes, and sequences a pass at most; compared with one process and passes of 8."""
MEANS_OF_MEANS = {"token_accuracy", "entropy"}
"""What TRL logs of SFT: the mean over passes of the mean over their tokens, of which passes have unequal numbers."""
SMALL = {"policy/kl_divergence": 1e-5}
"""Below it a number is the rounding of larger ones: logarithms of probabilities, of which it is a difference."""
GROUP = 4
RECIPE = {"grpo": {"logging_steps": 1, "max_steps": 6}, "launch": {"threads": 1, "micro_batch_size": 8}}


def fixed_completions() -> None:
    """Have generation return what the prompt and the place in the group determine, and note what each process made."""
    import random
    import zlib

    from accelerate import PartialState

    from posttrain.training.trl import GRPOTrainer

    def generate(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        first = PartialState().process_index * len(prompt_ids)
        made, end = [], self.processing_class.eos_token_id
        for place, prompt in enumerate(prompt_ids):
            draw = random.Random(zlib.crc32(repr((prompt, (first + place) % GROUP)).encode()))
            length = draw.randrange(4, 16)
            tag = self.processing_class("<think>")["input_ids"] * draw.randrange(2)  # what some reward pays for
            made.append(tag + [draw.randrange(20, 200) for _ in range(length)] + [end] * (length % 2))
        with Path(f"groups-{PartialState().process_index}.jsonl").open("a") as file:
            file.write(json.dumps([zlib.crc32(repr(prompt).encode()) for prompt in prompt_ids]) + "\n")
        return made, None

    GRPOTrainer._generate_single_turn = generate


@pytest.fixture(scope="module")
def one(forks: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = workspace(tmp_path_factory.mktemp("one"), RECIPE)
    for stage in ("prepare", "sft", "grpo"):
        finish(forks, root, stage)
    return root


def finish(forks: Any, root: Path, stage: str, processes: int = 1) -> None:
    run = Run(forks, root, stage, processes=processes, before=fixed_completions)
    assert run.wait() == 0, run.output()


def curve(root: Path, stage: str) -> dict[str, list[float]]:
    head, *rows = [line.split("\t") for line in (root / "results" / stage / "curve.tsv").read_text().splitlines()]
    return {name: [float(row[place]) for row in rows if row[place]] for place, name in enumerate(head)}


@pytest.mark.parametrize(("processes", "size"), PASSES)
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_step_is_the_same_on_every_layout(
    forks: Any, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, processes: int, size: int
) -> None:
    root = tmp_path / "workspace"
    shutil.copytree(one, root, ignore=shutil.ignore_patterns(".posttrain", stage, "groups-*"))
    params = (root / "params.yaml").read_text()
    assert "micro_batch_size: 8" in params
    (root / "params.yaml").write_text(params.replace("micro_batch_size: 8", f"micro_batch_size: {size}"))
    finish(forks, root, stage, processes)
    before, after = curve(one, stage), curve(root, stage)
    assert before.keys() == after.keys()
    for name, values in before.items():
        rel = 2e-2 if name in MEANS_OF_MEANS else 2e-3
        assert after[name] == pytest.approx(values, rel=rel, abs=SMALL.get(name, 2e-6)), name
    if stage == "grpo":
        assert any(value > 0.001 for value in before["advantage/std"])
        groups_are_whole(root, processes)


def test_groups_that_teach_nothing_cost_no_process_a_backward_pass_that_others_wait_for(
    forks: Any, one: Path, tmp_path: Path
) -> None:
    """Without a KL divergence their rows have no gradient, and processes have unequal numbers of them."""
    roots = {processes: tmp_path / str(processes) for processes in (1, 2)}
    for processes, root in roots.items():
        shutil.copytree(one, root, ignore=shutil.ignore_patterns(".posttrain", "grpo", "groups-*"))
        params = (root / "params.yaml").read_text()
        (root / "params.yaml").write_text(re.sub(r"beta: 0\.01", "beta: 0.0", params))
        finish(forks, root, "grpo", processes)
    before, after = (curve(root, "grpo") for root in roots.values())
    assert max(before["reward/zero_std_frac"]) > 0
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert after[name] == pytest.approx(values, rel=2e-3, abs=2e-6), name


def groups_are_whole(root: Path, processes: int) -> None:
    """Side by side, the processes' shares of each generation batch are groups of one prompt."""
    made = [
        [json.loads(line) for line in (root / f"groups-{rank}.jsonl").read_text().splitlines()]
        for rank in range(processes)
    ]
    for shares in zip(*made, strict=True):
        batch = [prompt for share in shares for prompt in share]
        assert len(batch) == 16
        assert all(len(set(batch[start : start + GROUP])) == 1 for start in range(0, len(batch), GROUP))
