"""What all tests share: no network, and a working directory that holds params.yaml, dvc.yaml and nothing else."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.params import Params, check_params, read_yaml
from stages.rewards import Verifier

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when it is imported

ROOT = Path(__file__).parents[1]
PROJECT = {"params.yaml", "dvc.yaml"}
LONG = {folder: place for place, folder in enumerate(("pipeline", "distributed", "flows"))}
ParamsWith = Callable[[dict[str, Any]], Params]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests one process runs: those of a file, or all that share a `dvc repro`. The long ones begin."""
    for item in items:
        shared = item.path.parent.name == "pipeline" and item.path.stem != "test_resume"
        item.add_marker(pytest.mark.xdist_group("pipeline" if shared else item.path.stem))
    items.sort(key=lambda item: LONG.get(item.path.parent.name, len(LONG)))


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: a folder with params.yaml and dvc.yaml alone. The environment is put back afterwards."""
    for name in PROJECT:
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def verifier() -> Iterator[Verifier]:
    """Two workers that tests share; they start with the first answer that needs them."""
    with Verifier(timeout_s=5.0, max_timeout_frac=1.0, workers=2) as verifier:
        yield verifier


@pytest.fixture
def params_with() -> ParamsWith:
    """The shipped params with some keys changed: `params_with({"prepare.dataset": "rows.jsonl"})`."""

    def build(changes: dict[str, Any]) -> Params:
        data = read_yaml(ROOT / "params.yaml")
        for dotted, value in changes.items():
            *sections, key = dotted.split(".")
            section = data
            for name in sections:
                section = section[name]
            section[key] = value
        return check_params(data, Path("params.yaml"))

    return build
