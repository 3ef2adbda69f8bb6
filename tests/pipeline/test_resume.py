"""Killed at chosen moments and run again, sft and grpo end with the bytes of a run that was never killed.

The runs are real processes and real signals. The recipe has what a resume can get wrong: three epochs, an epoch that
ends in the middle of a step's sequences, gradient accumulation, a schedule, rows of the curve over several steps, and
for grpo two passes over each batch of generations.
"""

import functools
import json
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import transformers

from posttrain.outputs.checkpoints import steps
from tests.forks import Run, generate_for, hashes
from tests.stopped import assert_same_bytes, checkpoints, finished, killed_at, set_params

EIGHT_STEPS = functools.partial(generate_for, 8)


@pytest.fixture
def root(never_killed: Path, tmp_path: Path) -> Path:
    """A copy of that workspace which writes a checkpoint after every step."""
    root = tmp_path / "workspace"
    shutil.copytree(never_killed, root)
    set_params(root, {"launch": {"checkpoint_every_s": 0}})
    return root


def went_on_after(output: str) -> int:
    """The step that a run started from, 0 for a run from the start."""
    found = re.search(r" \| goes on after step (\d+) of ", output)
    return int(found[1]) if found else 0


@pytest.mark.parametrize(("stage", "moments"), [("sft", (5, 11)), ("grpo", (8, 17))])
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    forks: Any, never_killed: Path, root: Path, stage: str, moments: tuple[int, ...]
) -> None:
    shutil.rmtree(root / f"models/{stage}")  # as DVC does before it runs a stage
    for before, step in zip((0, *moments), moments, strict=False):
        assert went_on_after(killed_at(forks, root, stage, step).output()) >= before
        assert not (root / f"models/{stage}").exists()
    assert went_on_after(finished(forks, root, stage)) >= moments[-1]
    assert_same_bytes(root, never_killed, stage)


def test_killed_while_it_writes_a_checkpoint(forks: Any, never_killed: Path, root: Path) -> None:
    def half_written() -> list[Path]:
        return [p for p in root.glob(".posttrain/unpublished/grpo-*/trainer/checkpoint-*") if p.name > "checkpoint-1"]

    for _ in range(20):
        run = Run(forks, root, "grpo")
        assert run.until(half_written), run.output()
        run.kill()
        if half_written():
            break
    assert half_written(), "never hit the moment"
    assert "left out" not in finished(forks, root, "grpo")
    assert_same_bytes(root, never_killed, "grpo")
    assert not list(root.glob(".posttrain/unpublished/*"))


def test_killed_after_its_last_step(forks: Any, never_killed: Path, root: Path) -> None:
    run = Run(forks, root, "sft")
    assert run.until(lambda: "step-13" in checkpoints(root, "sft")), run.output()
    run.kill()
    if checkpoints(root, "sft"):  # else it had published
        assert "goes on after step 13 of 13" in finished(forks, root, "sft")
    assert_same_bytes(root, never_killed, "sft")


@pytest.mark.parametrize(("stage", "number"), [("sft", signal.SIGTERM), ("grpo", signal.SIGINT)])
def test_a_signal_saves_the_step_and_exits_75(
    forks: Any, never_killed: Path, root: Path, stage: str, number: signal.Signals
) -> None:
    set_params(root, {"launch": {"checkpoint_every_s": 1e6}})  # no other reason to save
    run = Run(forks, root, stage)
    assert run.until(lambda: f"{stage} 3/" in run.output()), run.output()
    run.signal(number)
    assert run.wait() == 75, run.output()
    [saved] = checkpoints(root, stage)
    step = saved.removeprefix("step-")
    assert f"posttrain {stage}: {number.name}: stopped after step {step} of" in run.output()
    assert f"to go on: posttrain {stage}" in run.output()
    assert "Traceback" not in run.output()
    assert not list(root.glob(".posttrain/unpublished/*"))
    assert f"goes on after step {step}" in finished(forks, root, stage)
    assert_same_bytes(root, never_killed, stage)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_training_stops_at_once(forks: Any, root: Path, number: signal.Signals) -> None:
    run = Run(forks, root, "grpo")
    assert run.until(lambda: list(root.glob(".posttrain/unpublished/grpo-*"))), run.output()  # next it loads two models
    run.signal(number)
    assert run.wait() == 128 + number, run.output()
    assert "Traceback" not in run.output()
    assert not list(root.glob(".posttrain/unpublished/*"))


def test_a_second_signal_stops_at_once(forks: Any, root: Path) -> None:
    run = Run(forks, root, "grpo")
    assert run.until(lambda: "step-2" in checkpoints(root, "grpo")), run.output()
    run.signal(signal.SIGTERM)
    run.signal(signal.SIGINT)
    assert run.wait() in {128 + signal.SIGTERM, 128 + signal.SIGINT}, run.output()
    assert "stopped after step" not in run.output()


def removed_as_it_is_written(name: str) -> None:
    written = transformers.Trainer._save_checkpoint

    def save(trainer: Any, *args: Any) -> None:
        written(trainer, *args)
        if trainer.state.global_step > 3:
            (Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}" / name).unlink()

    transformers.Trainer._save_checkpoint = save


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_checkpoint_that_lost_a_file_as_it_was_written_is_none(
    forks: Any, never_killed: Path, root: Path, name: str
) -> None:
    run = Run(forks, root, "sft", before=functools.partial(removed_as_it_is_written, name))
    assert run.wait() == 2, run.output()
    assert f"{name} removed while the checkpoint was written" in run.output().replace("*model*", "model")
    assert "goes on after step 3 of 13" in finished(forks, root, "sft")
    assert_same_bytes(root, never_killed, "sft")


def test_a_disk_that_takes_no_more_is_a_message_and_costs_no_checkpoint(
    forks: Any, never_killed: Path, root: Path
) -> None:
    run = Run(forks, root, "grpo")
    assert run.until(lambda: "step-4" in checkpoints(root, "grpo")), run.output()
    resource.prlimit(run.processes[0].pid, resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
    assert run.wait() == 2, run.output()
    assert "a checkpoint could not be written" in run.output()
    assert "run `posttrain grpo` again: it goes on from the checkpoint before" in run.output()
    saved = checkpoints(root, "grpo")
    assert len(saved) == 2
    output = finished(forks, root, "grpo")
    assert f"goes on after {saved[1].replace('-', ' ')}" in output
    assert_same_bytes(root, never_killed, "grpo")


def test_a_model_that_could_not_be_published_is_kept(forks: Any, never_killed: Path, root: Path) -> None:
    set_params(root, {"launch": {"checkpoint_every_s": 1e6}})  # the last step is saved all the same
    before = hashes(root, "sft")
    run = Run(forks, root, "sft")
    assert run.until(lambda: checkpoints(root, "sft")), run.output()
    resource.prlimit(run.processes[0].pid, resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
    assert run.wait() == 2, run.output()
    [saved] = (root / ".posttrain/checkpoints/sft").glob("*/step-13")
    assert f"the trained model is in {saved.relative_to(root)}" in run.output()
    assert "not published" in run.output()
    assert hashes(root, "sft").items() >= {name: before[name] for name in before if name.startswith("models")}.items()
    assert "goes on after step 13 of 13" in finished(forks, root, "sft")
    assert_same_bytes(root, never_killed, "sft")


def test_a_damaged_checkpoint_is_left_out(forks: Any, never_killed: Path, root: Path) -> None:
    killed_at(forks, root, "sft", 6)
    *_, last = [path for run in root.glob(".posttrain/checkpoints/sft/*") for path in steps(run)]
    optimizer = last / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    output = finished(forks, root, "sft")
    assert f"left out .posttrain/checkpoints/sft/{last.parent.name}/{last.name}: optimizer.pt is not what" in output
    assert f"goes on after step {int(last.name[5:]) - 1} of" in output
    assert_same_bytes(root, never_killed, "sft")


def test_other_params_start_clean_and_say_so(forks: Any, never_killed: Path, root: Path) -> None:
    killed_at(forks, root, "sft", 5)
    set_params(root, {"sft": {"learning_rate": 1e-3}})
    output = finished_others(forks, root)
    assert re.search(r"sft \| starts at step 0: \d checkpoint\(s\) belong to other params", output)
    assert hashes(root, "sft") != hashes(never_killed, "sft")
    set_params(root, {"sft": {"learning_rate": 4e-3}})
    assert "goes on after step " in finished(forks, root, "sft")
    assert_same_bytes(root, never_killed, "sft")


def finished_others(forks: Any, root: Path) -> str:
    """A run that removes its own checkpoints and leaves those of others."""
    before = checkpoints(root, "sft")
    run = Run(forks, root, "sft")
    assert run.wait() == 0, run.output()
    assert checkpoints(root, "sft") == before
    return run.output()


def test_a_second_run_at_once_is_refused(forks: Any, never_killed: Path, root: Path) -> None:
    first = Run(forks, root, "grpo")
    assert first.until(lambda: checkpoints(root, "grpo")), first.output()
    first.signal(signal.SIGSTOP)
    second = Run(forks, root, "grpo", log="second.log")
    assert second.wait() == 75
    assert f"process {first.processes[0].pid} runs this stage in this folder" in second.output()
    first.signal(signal.SIGCONT)
    assert first.wait() == 0, first.output()
    assert_same_bytes(root, never_killed, "grpo")


@pytest.mark.parametrize("options", [{"processes": 2}, {"before": EIGHT_STEPS}])
def test_several_processes_and_generations_for_several_steps(
    forks: Any, root: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(root, reference)
    finished(forks, reference, "grpo", **options)
    killed_at(forks, root, "grpo", 11, **options)
    assert "goes on after step" in finished(forks, root, "grpo", **options)
    assert_same_bytes(root, reference, "grpo")


@pytest.mark.parametrize("options", [{}, {"processes": 2}, {"before": EIGHT_STEPS}])
def test_dynamic_sampling_goes_on_with_the_problem_that_was_next(
    forks: Any, root: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    # One that some of the groups of a random model differ in, and some do not.
    repetition = {"weight": 1.0, "ngram_size": 3, "max_penalty": -1.0, "language": "en"}
    set_params(root, {"grpo": {"dynamic_sampling": {"max_rounds": 2}}, "rewards": {"repetition_penalty": repetition}})
    reference = tmp_path / "reference"
    shutil.copytree(root, reference)
    finished(forks, reference, "grpo", **options)
    metrics = json.loads((reference / "results/grpo/metrics.json").read_text())
    assert metrics["sampling/rounds"] > 0
    assert metrics["sampling/replaced_frac"] > 0
    killed_at(forks, root, "grpo", 11, **options)
    assert "goes on after step" in finished(forks, root, "grpo", **options)
    assert_same_bytes(root, reference, "grpo")
