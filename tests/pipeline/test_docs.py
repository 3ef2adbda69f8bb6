"""The commands of the docs, as they stand there, in a clone that has run a recipe of seconds."""

from pathlib import Path

import pytest

from tests.docs import run_all


@pytest.mark.exhaustive
def test_commands_of_the_docs_run(tmp_path: Path) -> None:
    ran = list(run_all(tmp_path))
    assert len(ran) >= 15
    failed = [f"{one.block.page}:{one.block.line} exit {one.code}\n{one.output}" for one in ran if one.code]
    assert not failed, "\n\n".join(failed)
