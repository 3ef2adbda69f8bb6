"""The docs say what is: commands that exist, each block run or with a reason, a reference that leaves nothing out."""

import argparse
import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest

from posttrain.cli import parser
from posttrain.params.rewards import Rewards
from posttrain.rewards.scoring import BUILT_IN
from tests.docs import PAGES, ROOT, Block, blocks, calls, inline_calls, pages

NOT_RUN = re.compile(r"<!-- not run: .*? -->")


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def unknown(call: str) -> str | None:
    """What of a mention of a command there is not."""
    words = call.split()
    if words[0] not in commands():
        return words[0]
    options = commands()[words[0]]._option_string_actions
    return next((word for word in words if word.startswith("--") and word.partition("=")[0] not in options), None)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    for call in calls(page):
        try:
            parser().parse_args(shlex.split(call))
        except SystemExit as stopped:
            pytest.fail(f"{page.name}: `posttrain {call}` is refused") if stopped.code else None
    assert [call for call in inline_calls(page) if unknown(call)] == []


def test_a_flag_that_is_gone_would_be_seen() -> None:
    assert unknown("plan --gpu-memory-gib 80") is None
    assert unknown("plan --gpu-memory 80") == "--gpu-memory"
    assert unknown("train") == "train"


def block(text: str, folder: Path) -> list[Block]:
    page = folder / "docs/new.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(text)
    return list(blocks(page, folder))


def test_a_block_runs_unless_a_reason_stands_above_it(tmp_path: Path) -> None:
    (new,) = block("# New\n\n```\ndvc repro  # all\n```\n", tmp_path)
    assert (new.line, new.section, new.text, new.why_not) == (3, "New", "dvc repro  # all\n", None)
    (left,) = block("# New\n\n<!-- not run: a cluster -->\n```\nsbatch job\n```\n", tmp_path)
    assert left.why_not == "a cluster"
    (shown,) = block("```\n$ posttrain gate\ngate | held\n```\n", tmp_path)
    assert shown.text == "posttrain gate"
    assert block("```\ngate | held\n```\n\n```yaml\nmake: 1\n```\n", tmp_path) == []


def test_reasons_are_of_blocks_that_are_there() -> None:
    found = [one for page in pages() for one in blocks(page)]
    assert len([one for one in found if one.why_not is None]) >= 10
    assert {one.page for one in found} >= set(PAGES)
    inline = [one for one in found if one.why_not and one.page not in PAGES]
    assert len(inline) == sum(len(NOT_RUN.findall(page.read_text())) for page in pages())


def test_the_reference_leaves_nothing_out() -> None:
    made = runpy.run_path(str(ROOT / "docs/reference.py"))["pages"]()
    said = {name: set(re.findall(r"^## (.+)$", text, re.M)) for name, text in made.items()}
    assert said["reference/commands.md"] == {f"posttrain {name}" for name in commands()}
    assert said["reference/rewards.md"] == set(BUILT_IN) == set(Rewards.model_fields)
    assert {"posttrain.paths", "posttrain.evaluation.statistics", "posttrain.judge.verifier"} <= said[
        "reference/library.md"
    ]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_tests_that_the_matrix_of_faults_names_are_there() -> None:
    _, _, matrix = (ROOT / "docs/faults.md").read_text().partition("\n## Matrix\n")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", matrix)
    assert len(named) > 60
    assert [one for one in named if not (ROOT / "tests" / one[0]).is_file()] == []
    known = {file: functions(ROOT / "tests" / file) for file, _ in named}
    assert [f"{file}::{name}" for file, name in named if name not in known[file]] == []
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([\w-]+)`", matrix)) <= targets


def test_the_navigation_names_pages_that_are_there() -> None:
    named = set(re.findall(r"[\w./]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]))
    made = {"overview.md", "contributing.md", "changelog.md"}
    assert {name for name in named - made if not name.startswith("reference/")} <= {page.name for page in pages()}
