"""The same bytes where the outputs lie on another file system, and in a shell that speaks to other launchers."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forks import Run, hashes, workspace

STAGES = ("prepare", "sft", "grpo")
FOLDERS = ("data", "models", "results")


def run_through(forks: Any, root: Path, before: Any = None) -> dict[str, str]:
    found: dict[str, str] = {}
    for stage in STAGES:
        run = Run(forks, root, stage, before=before)
        assert run.wait() == 0, run.output()
        found |= hashes(root, stage)
    return found


@pytest.fixture(scope="module")
def expected(forks: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_through(forks, workspace(tmp_path_factory.mktemp("plain"), {}))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than that of `tmp_path`."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system to write to: /dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="posttrain-test-", dir=memory))
    yield folder
    shutil.rmtree(folder)


def test_outputs_on_another_file_system(forks: Any, expected: dict[str, str], tmp_path: Path, elsewhere: Path) -> None:
    """By a link to the folder that holds the outputs, and by one to an output."""
    for name in FOLDERS:
        (elsewhere / name).mkdir()
        (tmp_path / name).symlink_to(elsewhere / name)
    (elsewhere / "policy").mkdir()
    (tmp_path / "models/grpo").symlink_to(elsewhere / "policy")
    root = workspace(tmp_path, {})
    assert run_through(forks, root) == expected
    assert (root / "models/grpo").is_symlink()
    assert (elsewhere / "policy/model.safetensors").is_file()
    left = [path.name for folder in (elsewhere, *map(elsewhere.joinpath, FOLDERS)) for path in folder.glob(".*")]
    assert left == []


def test_a_shell_of_other_launchers(forks: Any, expected: dict[str, str], tmp_path: Path) -> None:
    """Ranks of a cluster's operator, for a peer that does not exist, and accelerate's own precision."""
    assert run_through(forks, workspace(tmp_path, {}), before=foreign_shell) == expected


def foreign_shell() -> None:
    os.environ |= {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_MIXED_PRECISION": "bf16"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9", "CUDA_VISIBLE_DEVICES": "-1"}


def test_published_files_have_the_mode_of_any_new_file(forks: Any, tmp_path: Path) -> None:
    root = workspace(tmp_path, {})
    for stage in ("prepare", "sft"):
        run = Run(forks, root, stage, before=open_to_the_group)
        assert run.wait() == 0, run.output()
    files = [path for folder in ("data/prepared", "models/sft", "results/sft") for path in (root / folder).iterdir()]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o664" for path in files}


def open_to_the_group() -> None:
    os.umask(0o002)
