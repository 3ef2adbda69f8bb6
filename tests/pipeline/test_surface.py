"""A few inputs of every kind, made wrong or left as they are, with a fixed seed; `make surface` tries many."""

import subprocess
from pathlib import Path

import pytest

from tests.surface.__main__ import copied, judged, warm
from tests.surface.kinds import KINDS, SLOW
from tests.surface.run import FAULTS

CASES = 2


@pytest.fixture(scope="module")
def root(clone: Path, repro: "subprocess.CompletedProcess[str]", tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert repro.returncode == 0, repro.stderr
    warm()
    return copied(clone, tmp_path_factory.mktemp("surface") / "root")


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_is_answered_wrongly(kind: str, root: Path) -> None:
    found = judged(kind, root, 1 if kind in SLOW else CASES, 1, every=False)
    assert [(case, outcome) for case, outcome in found if outcome.verdict in FAULTS] == []
