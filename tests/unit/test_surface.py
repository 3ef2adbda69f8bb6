"""Output that a file's text has no power over, JSON that was edited, and graphs of another form."""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from posttrain.errors import InputError
from posttrain.graph import graph, stage_of
from posttrain.outputs.json_files import read_object, read_objects
from posttrain.params.recipes import list_recipes
from posttrain.terminal import harmless_output


def test_what_is_printed_cannot_act_on_the_terminal() -> None:
    with redirect_stdout(io.StringIO()) as out, harmless_output():
        print("a\x1b[31m\u202e\udcff\tb\u00a0é")
        sys.stdout.writelines(["\x07\n"])
    assert out.getvalue() == "a\\x1b[31m\\u202e\\udcff\tb\u00a0é\n\\x07\n"


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"9" * 5000, b"\xff", b"[1]", b"<<<<<<< HEAD\n{}"])
def test_json_that_was_edited_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(InputError, match="mend it"):
        read_object(tmp_path / "a.json", "mend it")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", tmp_path / "loop", tmp_path, Path("/dev/zero"), tmp_path / "nothing"):
        with pytest.raises(InputError, match="mend it"):
            read_objects(path, "mend it")


def test_a_recipe_that_is_no_file_is_listed_as_such(project: Path) -> None:
    Path("recipes").mkdir()
    os.mkfifo("recipes/pipe.yaml")
    assert list_recipes() == [("pipe", "cannot be used: a folder, a pipe or a device")]


@pytest.mark.parametrize(
    "stages", ["{grpo: 1}", "{grpo: {deps: a}}", "{grpo: {deps: [1]}}", "{grpo: {outs: [{a: 1}]}}"]
)
def test_a_graph_of_another_form_is_refused(project: Path, stages: str) -> None:
    Path("dvc.yaml").write_text(f"stages: {stages}")
    with pytest.raises(InputError, match="stage grpo"):
        graph()


def test_a_stage_that_the_graph_lacks_is_named(project: Path) -> None:
    Path("dvc.yaml").write_text("stages: {}")
    with pytest.raises(InputError, match="no stage sft"):
        stage_of("sft")
