"""Output that a file's text has no power over, JSON that was edited, and graphs of another form."""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from posttrain.commands.check.workspace import Workspace
from posttrain.commands.compare import evaluated
from posttrain.commands.data import measured
from posttrain.commands.rewards import show
from posttrain.data.files import _configs as data_files_of
from posttrain.errors import InputError
from posttrain.evaluation.subjects import Subject
from posttrain.graph import graph, stage_of
from posttrain.grpo.difficulty import Measured
from posttrain.outputs.json_files import read_object, read_objects
from posttrain.params import plain_yaml
from posttrain.params.file import load_params
from posttrain.params.recipes import list_recipes, overlaid
from posttrain.paths import GRPO_RESULTS, PARAMS, PREPARED
from posttrain.rewards.completion import Completion
from posttrain.terminal import harmless_output
from posttrain.text_files import read_text
from posttrain.training.card import licence_of
from posttrain.training.pretrained import require_folder
from tests.surface.case import place


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
            list(read_objects(path, "mend it"))


def test_text_is_read_as_a_person_sees_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_text(tmp_path / "a.txt", "mend it") == "one\ntwo\n"
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": "\xe2\x80\xa8"}\r\n\n{}')
    assert list(read_objects(tmp_path / "a.jsonl", "mend it")) == [{"a": "\u2028"}, {}]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room
    for read in (read_object, lambda path, do: list(read_objects(path, do)), lambda path, do: plain_yaml.read(path)):
        with pytest.raises(InputError, match=f"{2**40} bytes"):
            read(tmp_path / "a.json", "mend it")


def test_a_row_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"problem": "a"}\n[1]\n')
    with pytest.raises(InputError, match=r"samples\.jsonl: line 2"):
        evaluated(str(tmp_path))


@pytest.mark.parametrize("kind", ["fifo", "endless", "socket"])
def test_a_model_folder_with_something_else_than_files_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    place(tmp_path / "tokenizer.json", kind)
    with pytest.raises(InputError, match="a pipe, a socket or a device"):
        require_folder(tmp_path)
    with pytest.raises(InputError, match="a pipe, a socket or a device"):
        _ = Subject("own", tmp_path, None).tokenizer


def test_a_head_nested_without_end_is_refused_and_no_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\na: " + "[" * 5_000 + "\n---\n")
    assert licence_of(tmp_path) is None
    with pytest.raises(InputError, match="more than 40 levels"):
        data_files_of(tmp_path)


def test_rates_and_logs_that_were_edited_are_named(project: Path) -> None:
    measured = Measured({})
    measured.keep([])
    measured.path.write_text('[{"id": 1, "odd": 2}]')
    with pytest.raises(InputError, match="measured again"):
        measured.rates()


def test_a_name_that_no_recipe_can_have_is_refused(project: Path) -> None:
    Path("recipes").mkdir()
    for name in ("x" * 5000, "../params", "\x1b[31m"):
        with pytest.raises(InputError, match="no such file"):
            overlaid(name, {})


@pytest.mark.parametrize("content", [b"", b"null", b"PAR1" * 9])
def test_a_table_of_rates_that_was_cut_is_named(project: Path, content: bytes) -> None:
    GRPO_RESULTS.mkdir(parents=True)
    (GRPO_RESULTS / "difficulty.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"difficulty\.parquet"):
        measured()


@pytest.mark.parametrize("text", ["", "\n", "{}", '{"problem": 1}', "[1]"])
def test_prepared_rows_that_were_edited_are_named(project: Path, text: str) -> None:
    PREPARED.mkdir(parents=True)
    (PREPARED / "manifest.json").write_text('{"files": {}}')
    (PREPARED / "train.jsonl").write_text(text)
    with pytest.raises(InputError, match="data/prepared/train"):
        _ = Workspace(load_params(PARAMS)).train


def test_sources_that_are_no_text_are_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    sources: list[Any] = ["mine", [1], {"a": 1}, None]
    completions = [Completion("2", row={"source": source}) for source in sources]
    show(completions, {"accuracy": [1.0] * 4}, {"accuracy": 1.0})
    assert "'mine': right 0 of 1" in capsys.readouterr().out


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


def test_a_stage_whose_params_are_no_names_is_refused(project: Path) -> None:
    Path("dvc.yaml").write_text("stages: {sft: {deps: [a], params: [seed, {other.yaml: {b: 1}}]}}")
    with pytest.raises(InputError, match="stage sft: params with more than names"):
        stage_of("sft")


def test_a_stage_that_the_graph_lacks_is_named(project: Path) -> None:
    Path("dvc.yaml").write_text("stages: {}")
    with pytest.raises(InputError, match="no stage sft"):
        stage_of("sft")
