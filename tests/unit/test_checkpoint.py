"""Checkpoints: whole or not there, checked before use, used by a run of the same fingerprint, one run at a time."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.commands.checkpoints import belongs
from posttrain.errors import RetryError
from posttrain.outputs import facts as facts_module
from posttrain.outputs.checkpoints import Checkpoints, discard, only_run, step_of, steps
from posttrain.outputs.disk import readable
from posttrain.outputs.facts import Origin, differences
from posttrain.outputs.manifest import MANIFEST
from posttrain.params.file import load_params
from posttrain.paths import CHECKPOINTS, LOCKS, PARAMS, UNPUBLISHED
from posttrain.processes.lock import keep_held
from tests.conftest import ParamsWith

ROOT = Path(__file__).parents[2]
FACTS = {"params": {"sft": {"learning_rate": 0.1}}}


@pytest.fixture
def workspace(project: Path, root: Path) -> Path:
    """dvc.yaml, prepared data and a parent model: what the fingerprint of sft and grpo is made of."""
    shutil.copy(root / "dvc.yaml", project)
    for name in ("data/prepared/manifest.json", "models/sft/manifest.json", "models/base/README.md"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("as it was", encoding="utf-8")
    return project


@pytest.fixture
def tree(tmp_path_factory: pytest.TempPathFactory, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code, in place of the tree that this process runs."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("posttrain", "stages"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(facts_module, "ROOT", copy)
    return copy


def print_of(stage: str, changes: ParamsWith | Any = None) -> str:
    return Origin(stage, changes or load_params(PARAMS)).fingerprint


def source(step: int) -> Path:
    """What a trainer wrote for a step."""
    folder = UNPUBLISHED / "trainer" / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"weights of {step}", encoding="utf-8")
    (folder / "global_step/optimizer.pt").write_text(f"moments of {step}", encoding="utf-8")
    return folder


class Known(Origin):
    """Facts that a test gives, in place of those of a folder."""

    def __init__(self, stage: str, facts: dict[str, Any]) -> None:
        super().__init__(stage, load_params(ROOT / "params.yaml"))
        vars(self)["facts"] = facts


def written(*numbers: int, stage: str = "sft", facts: dict[str, Any] = FACTS) -> Checkpoints:
    checkpoints = Checkpoints(Known(stage, facts))
    for step in numbers:
        checkpoints.commit(source(step), step)
    return checkpoints


def numbers(checkpoints: Checkpoints) -> list[int]:
    return [step_of(path) for path in steps(checkpoints.folder)]


# ---------------------------------------------------------------------------------------------------------------------
# The fingerprint


def test_equal_runs_have_equal_fingerprints(workspace: Path) -> None:
    assert print_of("sft") == print_of("sft")
    assert print_of("sft") != print_of("grpo")


@pytest.mark.parametrize(
    ("stage", "change", "counts"),
    [
        ("sft", {"sft.learning_rate": 0.5}, True),
        ("sft", {"seed": 2}, True),
        ("sft", {"grpo.learning_rate": 0.5}, False),
        ("grpo", {"grpo.learning_rate": 0.5}, True),
        ("grpo", {"rewards.accuracy.weight": 2.0}, True),
        ("grpo", {"sft.learning_rate": 0.5}, False),  # reaches grpo through models/sft
        ("sft", {"launch.threads": 2}, True),
        ("sft", {"launch.micro_batch_size": 16}, True),
        ("sft", {"launch.checkpoint_every_s": 7}, False),
        ("sft", {"launch.evaluate_timeout_s": 7}, False),
    ],
)
def test_what_changes_the_bytes_changes_the_fingerprint(
    workspace: Path, params_with: ParamsWith, stage: str, change: dict[str, Any], counts: bool
) -> None:
    assert (print_of(stage, params_with({})) != print_of(stage, params_with(change))) is counts


@pytest.mark.parametrize(
    ("stage", "path", "counts"),
    [
        ("sft", "data/prepared/manifest.json", True),
        ("sft", "models/sft/manifest.json", False),
        ("sft", "models/base/README.md", False),  # params name no model in it
        ("grpo", "data/prepared/manifest.json", True),
        ("grpo", "models/sft/manifest.json", True),
    ],
)
def test_changed_data_and_parents_change_the_fingerprint(workspace: Path, stage: str, path: str, counts: bool) -> None:
    before = print_of(stage)
    (workspace / path).write_text("otherwise", encoding="utf-8")
    assert (print_of(stage) != before) is counts


def test_a_base_model_counts_when_params_name_it(workspace: Path, params_with: ParamsWith) -> None:
    for name in ("mine", "other"):
        (workspace / "models/base" / name).mkdir()
        (workspace / "models/base" / name / "config.json").write_text("{}", encoding="utf-8")
    params = params_with({"model.name_or_path": "models/base/mine"})
    before = print_of("sft", params)
    (workspace / "models/base/other/config.json").write_text("[]", encoding="utf-8")
    assert print_of("sft", params) == before
    (workspace / "models/base/mine/config.json").write_text("[]", encoding="utf-8")
    assert print_of("sft", params) != before


TWO_OF_THE_CODE = ["posttrain/training/resume.py", "stages/sft.py"]


@pytest.mark.parametrize("name", [*TWO_OF_THE_CODE, "rewards/own.py"])
def test_a_comment_leaves_the_fingerprint_and_an_edit_does_not(workspace: Path, tree: Path, name: str) -> None:
    stage = "sft" if name in TWO_OF_THE_CODE else "grpo"
    file = (tree if name in TWO_OF_THE_CODE else workspace) / name
    file.parent.mkdir(exist_ok=True)
    text = file.read_text() if file.exists() else "def own(completion):\n    return 1.0\n"
    file.write_text(text)
    before = print_of(stage)
    file.write_text(f"# a comment\n{text}\n\n# and one more")
    assert print_of(stage) == before
    file.write_text(f"{text}\nMORE = 1\n")
    assert print_of(stage) != before


def test_a_checkpoint_and_a_manifest_are_made_of_the_same_facts(workspace: Path) -> None:
    origin = Origin("grpo", load_params(PARAMS))
    assert {key: value for key, value in origin.facts.items() if key != "format"} == origin.trained
    assert {key: value for key, value in origin.trained.items() if key != "launch"} == origin.record


def test_processes_code_and_versions_are_among_the_facts(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_LAUNCH_PROCESSES", "1")
    before = Origin("grpo", load_params(PARAMS)).facts
    assert {"stages/grpo.py", "posttrain/training/resume.py", "posttrain/rewards/code.py"} <= set(before["code"])
    assert None not in before["code"].values()
    assert {"torch", "transformers", "trl", "math-verify"} <= set(before["versions"])
    monkeypatch.setenv("POSTTRAIN_LAUNCH_PROCESSES", "2")
    told = ["launch.processes 1, now 2", 'launch.strategy "single", now "ddp"']
    assert differences(before, Origin("grpo", load_params(PARAMS)).facts) == told


def test_differences_are_named_as_a_person_knows_them() -> None:
    old = {
        "params": {"sft": {"lr": 0.1}},
        "code": {"stages/sft.py": "a"},
        "versions": {"trl": "1"},
        "inputs": {"d": "x"},
    }
    new = {
        "params": {"sft": {"lr": 0.2}},
        "code": {"stages/sft.py": "b"},
        "versions": {"trl": "2"},
        "inputs": {"d": "y"},
    }
    assert differences(old, new) == ["stages/sft.py", "d", "sft.lr 0.1, now 0.2", 'trl "1", now "2"']
    assert differences(old, old) == []


# ---------------------------------------------------------------------------------------------------------------------
# Written, verified, pruned


def test_a_checkpoint_is_moved_in_with_the_hash_of_each_file(project: Path) -> None:
    path = written(20).folder / "step-20"
    assert json.loads((path / MANIFEST).read_text())["step"] == 20
    assert set(json.loads((path / MANIFEST).read_text())["files"]) == {"model.safetensors", "global_step/optimizer.pt"}
    assert not (UNPUBLISHED / "trainer/checkpoint-20").exists()


def test_the_last_two_are_kept(project: Path) -> None:
    checkpoints = written(5, 100, 20)  # not in the order of their names either
    assert numbers(checkpoints) == [5, 20]  # 100 was written by a run whose step 100 was not to be trusted
    assert numbers(written(30, 40)) == [30, 40]


def test_the_newest_is_the_highest_step_whatever_the_clock_says(project: Path) -> None:
    checkpoints = written(9, 10)
    os.utime(checkpoints.folder / "step-10", (0, 0))
    assert checkpoints.latest() == checkpoints.folder / "step-10"
    assert Checkpoints(Known("sft", {"other": 1})).latest() is None


def truncate(path: Path) -> None:
    file = path / "global_step/optimizer.pt"
    file.write_bytes(file.read_bytes()[:-1])


def flip(path: Path) -> None:
    (path / "model.safetensors").write_text("weights of 21", encoding="utf-8")


def lose(path: Path) -> None:
    (path / "model.safetensors").unlink()


def cut_manifest(path: Path) -> None:
    (path / MANIFEST).write_text((path / MANIFEST).read_text()[:50])


def another(path: Path) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "facts": {"params": {"sft": {"learning_rate": 0.2}}}}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "global_step/optimizer.pt is not what was written"),
        (flip, "model.safetensors is not what was written"),
        (lose, "model.safetensors is missing"),
        (cut_manifest, "no readable manifest.json"),
        (another, "its manifest.json belongs to another"),
        (lambda path: (path / MANIFEST).unlink(), "no readable manifest.json"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    project: Path, damage: Any, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = written(10, 20)
    damage(checkpoints.folder / "step-20")
    assert checkpoints.latest() == checkpoints.folder / "step-10"
    shown = capsys.readouterr().out
    assert named in shown
    assert "step-20" in shown
    # It neither counts as one of the two that are kept, nor stands in the way of its successor.
    checkpoints.commit(source(15), 15)
    assert numbers(checkpoints) == [10, 15]
    checkpoints.commit(source(20), 20)
    assert checkpoints.fault(checkpoints.folder / "step-20") is None
    assert numbers(checkpoints) == [15, 20]


def test_none_is_left_if_all_are_damaged(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = written(10, 20)
    for path in steps(checkpoints.folder):
        flip(path)
    assert checkpoints.latest() is None
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_publishing_removes_the_checkpoints_of_this_run_only(project: Path) -> None:
    other, mine = written(7, facts={"other": 1}), written(10, 20)
    assert mine.others() == [other.folder / "step-7"]
    mine.remove()
    assert numbers(mine) == []
    assert numbers(other) == [7]
    other.remove()
    other.remove()  # a run that wrote none
    assert not CHECKPOINTS.exists()


def commit_for_ever() -> None:
    checkpoints, step = Checkpoints(Known("sft", FACTS)), 1000
    while True:
        step += 1
        checkpoints.commit(source(step), step)


def test_somebody_else_removes_them_at_the_same_time(project: Path) -> None:
    """The stage has published by then: it may not end with an error."""
    for _ in range(10):
        checkpoints = written(1, 2)
        for number in range(1000):
            (checkpoints.folder / f"step-1/{number}").touch()
        stop = threading.Event()

        def remove(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                shutil.rmtree(UNPUBLISHED.parent, ignore_errors=True)

        thread = threading.Thread(target=remove)
        thread.start()
        try:
            checkpoints.remove()
        finally:
            stop.set()
            thread.join()
    discard(UNPUBLISHED / "gone")


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(project: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for delay_ms in (5, 11, 17, 23, 31, 43):
        shutil.rmtree(CHECKPOINTS, ignore_errors=True)
        checkpoints = written(1, 2)
        process = fork.Process(target=commit_for_ever)
        process.start()
        process.join(delay_ms / 1000)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert 2 <= len(numbers(checkpoints)) <= 3  # the third: killed before the oldest was removed
        assert [checkpoints.fault(path) for path in steps(checkpoints.folder)].count(None) == len(numbers(checkpoints))
        shutil.rmtree(UNPUBLISHED)


# ---------------------------------------------------------------------------------------------------------------------
# One at a time, a disk that takes no more, the list


@contextmanager
def holding(stage: str) -> Iterator[int]:
    """The number of another process, which runs the stage until the block ends."""
    holder = f"""
import time
from posttrain.outputs.checkpoints import only_run
with only_run("{stage}"):
    print("held", flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_of_a_stage_is_refused_and_others_are_not(project: Path) -> None:
    with holding("sft") as pid:
        with pytest.raises(RetryError, match=f"process {pid} runs this stage"), only_run("sft"):
            pass
        assert RetryError.exit_code == 75
        with only_run("grpo"):
            pass
    with only_run("sft"):  # released by its death
        pass


def test_a_lock_that_somebody_removed_is_taken_again_unless_another_run_has_it(project: Path) -> None:
    with only_run("sft"):
        shutil.rmtree(LOCKS)
        keep_held()
        # From outside: closing the file in here would let go of the lock.
        second = 'from posttrain.outputs.checkpoints import only_run\nwith only_run("sft"):\n    pass'
        told = subprocess.run([sys.executable, "-c", second], capture_output=True, text=True).stderr
        assert f"RetryError: process {os.getpid()} runs this stage" in told
        shutil.rmtree(LOCKS)
        with holding("sft") as pid:
            with pytest.raises(RetryError, match=f"process {pid} runs this stage"):
                keep_held()
            with pytest.raises(RetryError):
                Checkpoints(Origin("sft", load_params(PARAMS))).commit(source(1), 1)


def test_a_parent_that_became_another_is_refused_with_75(workspace: Path) -> None:
    origin = Origin.now("grpo", load_params(PARAMS))
    origin.require_same_parents()
    (workspace / "models/sft/manifest.json").write_text("another", encoding="utf-8")
    with pytest.raises(RetryError, match="models/sft became another while grpo ran"):
        origin.require_same_parents()
    (workspace / "models/sft/manifest.json").unlink()
    with pytest.raises(RetryError, match="models/sft became another"):
        origin.require_same_parents()


def test_ranks_in_the_shell_switch_no_lock_off(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with holding("prepare"):
        assert main(["prepare"]) == 75
    assert "runs this stage in this folder" in capsys.readouterr().err
    assert main(["prepare"]) == 0


def test_a_full_disk_is_a_message(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the system refuses to write more
    try:
        assert main(["prepare"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    shown = capsys.readouterr().err
    assert "File too large" in shown
    assert "make room" in shown
    assert "Traceback" not in shown


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that not even root can write")
def test_a_read_only_folder_is_a_message(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / ".posttrain").symlink_to("/sys/kernel")
    assert main(["prepare"]) == 2
    shown = capsys.readouterr().err
    assert "/sys/kernel: Operation not permitted" in shown or "/sys/kernel: Read-only file system" in shown


def test_the_list_says_which_params_a_checkpoint_belongs_to(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints"]) == 0
    assert "none" in capsys.readouterr().out
    params = load_params(PARAMS)
    mine = written(10, 20, facts=Origin("sft", params).facts)
    changed = params.model_copy(update={"grpo": params.grpo.model_copy(update={"beta": 0.5})})
    other = written(7, stage="grpo", facts=Origin("grpo", changed).facts)
    (workspace / "models/sft/manifest.json").write_text("otherwise", encoding="utf-8")
    assert main(["checkpoints"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["grpo", other.folder.name, "7"],
        ["sft", mine.folder.name, "10"],
        ["sft", mine.folder.name, "20"],
    ]
    assert lines[0].endswith("others: grpo.beta 0.5, now 0.01; models/sft")
    assert lines[2].endswith("the present params, inputs and code")
    assert " KiB " in lines[2]
    cut_manifest(mine.folder / "step-20")
    assert "no readable" in belongs(mine.folder / "step-20", {})


@pytest.mark.parametrize(("size", "shown"), [(5, "5 B"), (2048, "2 KiB"), (3 * 2**30, "3 GiB"), (2**42, "4.1e+03 GiB")])
def test_sizes_are_readable(size: int, shown: str) -> None:
    assert readable(size) == shown
