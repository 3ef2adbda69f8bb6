"""Two runs in one folder, and what is taken from a run: one of them waits or says 75, and the bytes are those of a run
that nothing happened to."""

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from posttrain.outputs.manifest import MANIFEST
from posttrain.processes.process_tree import descendants
from tests.forks import Run, hashes, own_server
from tests.stopped import assert_same_bytes, checkpoints, finished, set_params

pytestmark = pytest.mark.slow

OWN_REWARD = """
import time
def slow(completion):
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    return float(len(completion.text) % 7)
"""
"""What cannot be scored but in a worker, and takes long enough to be hit."""


@pytest.fixture
def root(never_killed: Path, tmp_path: Path) -> Path:
    """A copy of the workspace that nothing happened to, which writes a checkpoint after every step."""
    root = Path(shutil.copytree(never_killed, tmp_path / "workspace"))
    set_params(root, {"launch": {"checkpoint_every_s": 0}})
    return root


def stopped_in_training(forks: Any, root: Path, stage: str, **options: Any) -> Run:
    """A run that has written a checkpoint, and waits."""
    run = Run(forks, root, stage, **options)
    assert run.until(lambda: checkpoints(root, stage)), run.output()
    run.signal(signal.SIGSTOP)
    return run


def beside(forks: Any, root: Path, stage: str) -> Run:
    """A second run while the first waits."""
    run = Run(forks, root, stage, log="second.log")
    run.wait()
    return run


def test_a_second_run_whose_lock_was_removed(forks: Any, never_killed: Path, root: Path) -> None:
    """It finds no lock, and runs; the first notices before it writes anything that others read."""
    first = stopped_in_training(forks, root, "grpo")
    shutil.rmtree(root / ".posttrain/locks")
    second = Run(forks, root, "grpo", log="second.log")
    assert second.until(lambda: (root / ".posttrain/locks/grpo.lock").exists()), second.output()
    holder = second.processes[0].pid
    second.until(lambda: (root / ".posttrain/locks/grpo.lock").read_text().strip() == str(holder))
    second.signal(signal.SIGSTOP)
    first.signal(signal.SIGCONT)
    assert first.wait() == 75, first.output()
    assert f"process {holder} runs this stage in this folder" in first.output()
    second.signal(signal.SIGCONT)
    assert second.wait() == 0, second.output()
    assert_same_bytes(root, never_killed, "grpo")


def test_all_of_posttrain_removed_and_a_second_run(forks: Any, never_killed: Path, root: Path) -> None:
    first = stopped_in_training(forks, root, "grpo")
    for path in (root / ".posttrain").glob("[a-z]*/"):
        shutil.rmtree(path)
    second = beside(forks, root, "grpo")
    assert second.wait() == 0, second.output()
    first.signal(signal.SIGCONT)
    assert first.wait() in (0, 2), first.output()  # 0 where the second has made again what the first needs
    assert "Traceback" not in first.output()
    assert_same_bytes(root, never_killed, "grpo")


def test_another_parent_while_a_stage_runs(forks: Any, never_killed: Path, root: Path) -> None:
    """sft runs while grpo trains on what it made before: grpo publishes nothing that would be of neither."""
    before, rate = hashes(root, "grpo"), YAML().load(root / "params.yaml")["sft"]["learning_rate"]
    grpo = stopped_in_training(forks, root, "grpo")
    set_params(root, {"sft": {"learning_rate": 1e-3}})
    assert beside(forks, root, "sft").wait() == 0
    grpo.signal(signal.SIGCONT)
    assert grpo.wait() == 75, grpo.output()
    assert "posttrain grpo: models/sft became another while grpo ran; nothing is published" in grpo.output()
    assert hashes(root, "grpo") == before
    set_params(root, {"sft": {"learning_rate": rate}})
    assert beside(forks, root, "sft").wait() == 0
    assert "goes on after step 20 of 20" in finished(forks, root, "grpo")
    assert_same_bytes(root, never_killed, "grpo")


def clock_set_back() -> None:
    """A day for each second that passes, as a clock might be while a machine finds the time."""
    real, began = time.time, time.time()
    time.time = lambda: began - 86400 * (real() - began)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_clock_set_back(forks: Any, never_killed: Path, root: Path, stage: str) -> None:
    """In a run, before the one that goes on, and before every file that is there was written."""
    shutil.rmtree(root / f"models/{stage}")
    run = Run(forks, root, stage, before=clock_set_back)
    assert run.until(lambda: "step-5" in checkpoints(root, stage)), run.output()
    run.kill()
    for path in root.rglob("*"):
        os.utime(path, (2e9 + hash(path.name) % 1000, 2e9 - hash(path.name) % 1000))
    assert "goes on after step" in finished(forks, root, stage, before=clock_set_back)
    assert_same_bytes(root, never_killed, stage)


def own_reward(root: Path) -> None:
    (root / "rewards").mkdir(exist_ok=True)
    (root / "rewards/mine.py").write_text(OWN_REWARD)
    yaml = YAML()
    params = yaml.load(root / "params.yaml")
    params["rewards"]["slow"] = {"weight": 1.0, "function": "rewards/mine.py:slow", "timeout_s": 5}
    params["grpo"]["max_steps"] = 6
    yaml.dump(params, root / "params.yaml")


def test_workers_and_their_fork_server_killed_while_rewards_are_scored(forks: Any, root: Path, tmp_path: Path) -> None:
    own_reward(root)
    shutil.rmtree(root / "models/grpo")
    reference = Path(shutil.copytree(root, tmp_path / "reference"))
    finished(forks, reference, "grpo")
    run, kills = Run(forks, root, "grpo", before=own_server), 0
    while run.until(lambda: checkpoints(root, "grpo")) and run.alive() and kills < 12:
        for pid in descendants(run.processes[0].pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills += 1
        time.sleep(0.2)
    assert run.wait() in (0, 75), run.output()
    assert kills, "nothing was hit"
    if not (root / "models/grpo" / MANIFEST).exists():
        finished(forks, root, "grpo")
    assert hashes(root, "grpo") == hashes(reference, "grpo")
