"""What all tests share: no network, and a working directory that holds params.yaml, dvc.yaml and nothing else."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from posttrain.params.file import check_params, read_yaml
from posttrain.params.schema import Params
from posttrain.processes import pool
from posttrain.rewards.scoring import Verifier

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more are slower: tensors are small, and tests run side by side
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
PROJECT = {"params.yaml", "dvc.yaml"}
LONG = {folder: place for place, folder in enumerate(("pipeline", "distributed", "flows"))}
ALONE = {"test_concurrency", "test_resume", "test_own_code", "test_own_model", "test_relock"}
ParamsWith = Callable[[dict[str, Any]], Params]


@pytest.hookimpl(trylast=True)  # once those that -m leaves out are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones begin: files with a slow test, then folders."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, LONG.get(item.path.parent.name, len(LONG))))


class Together(LoadScopeScheduling):
    """Which tests one of several processes runs: those of a file, in its order, or all that share a `dvc repro`."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        shared = file.parent.name == "pipeline" and file.stem not in ALONE
        return "pipeline" if shared else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    config.option.loadscopereorder = False
    return Together(config, log)


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


@pytest.fixture(scope="module")
def forks() -> Iterator[Any]:
    """What starts stages as forks: tests/forks.py."""
    from tests.forks import context

    yield context()
    forkserver._forkserver._stop()  # a process has one, and other tests want one of another kind


@pytest.fixture(scope="session")
def verifier() -> Iterator[Verifier]:
    """Two workers that tests share; they start with the first answer that needs them."""
    # Imports that each worker would make anew, 0.5 s: of the program that started it, and of one's own rewards.
    preload = [pool.__name__, pool.WARM, "pytest", "posttrain.rewards.call"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    forkserver.ensure_running()
    with Verifier(timeout_s=5.0, max_timeout_frac=1.0, workers=2) as verifier:
        yield verifier


@pytest.fixture
def params_with() -> ParamsWith:
    """The shipped params with some keys changed, for one process, as a test is:
    `params_with({"prepare.dataset": "rows.jsonl"})`."""
    return params_of


def params_of(changes: dict[str, Any]) -> Params:
    data = read_yaml(ROOT / "params.yaml")
    data["launch"]["processes"] = 1
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        section = data
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return check_params(data, Path("params.yaml"))
