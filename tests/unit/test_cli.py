"""The `posttrain` command: exit codes, messages, and a help that comes at once."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.params.schema import Params
from posttrain.paths import PARAMS, PREPARED
from tests.conftest import PROJECT

WORDS = ("prepare", "sft", "grpo", "evaluate", "report")


def test_the_help_lists_every_stage_and_imports_nothing_heavy(root: Path) -> None:
    code = (
        "import sys\n"
        "from posttrain.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert shown.returncode == 0
    # The commands are the first words of the indented lines.
    listed = [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("    ") and line.strip()]
    assert [word for word in (*WORDS, "chat", "check", "gate", "recipe") if word not in listed] == []
    imported = set(shown.stderr.split())
    assert "argparse" in imported
    heavy = {"pydantic", "torch", "ruamel", "numpy", "transformers", "trl", "datasets", "math_verify", "dvc", "prefect"}
    assert imported & heavy == set()


@pytest.mark.parametrize("word", WORDS)
def test_every_stage_has_a_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([word, "--help"])
    assert caught.value.code == 0
    assert f"posttrain {word}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["train"], ["prepare", "extra"], ["prepare", "--seed", "2"]])
def test_an_unknown_command_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: posttrain" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["prepare", "evaluate", "report"])
def test_wrong_params_exit_2_before_anything_starts(
    project: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # A stage checks all sections, not only its own.
    PARAMS.write_text(PARAMS.read_text(encoding="utf-8") + "\nfluff: 1\n", encoding="utf-8")
    assert main([word]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"posttrain {word}: params.yaml: fluff\n")
    for label in ("got", "wanted", "do"):
        assert f"\n  {label}" in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert {path.name for path in project.iterdir()} == PROJECT


def test_no_params_exit_2(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PARAMS.unlink()
    assert main(["prepare"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["evaluate", "report"])
def test_a_stage_before_its_input_exits_2_and_names_the_stage_to_run(
    project: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"posttrain {word}: data/prepared\n")
    assert "run `posttrain prepare` first" in shown


def test_a_dataset_that_is_not_there_exits_2(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PARAMS.read_text(encoding="utf-8")
    assert "  dataset: equations " in text
    PARAMS.write_text(text.replace("  dataset: equations ", "  dataset: rows.jsonl "), encoding="utf-8")
    assert main(["prepare"]) == 2
    assert capsys.readouterr().err.startswith("posttrain prepare: rows.jsonl\n")


def test_a_stage_that_works_exits_0_and_names_the_next(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines()[-1].endswith("next: posttrain sft")
    assert (PREPARED / "manifest.json").is_file()


@pytest.mark.parametrize(("dataset", "code"), [("equations", 0), ("rows.jsonl", 2)])
def test_after_a_stage_sigterm_means_what_it_meant_before(
    project: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, code: int
) -> None:
    text = PARAMS.read_text(encoding="utf-8")
    PARAMS.write_text(text.replace("  dataset: equations ", f"  dataset: {dataset} "), encoding="utf-8")
    handlers = [signal.getsignal(signal.SIGTERM)]
    prepare = importlib.import_module("stages.prepare")
    run = prepare.run

    def look(params: Params) -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        run(params)

    monkeypatch.setattr(prepare, "run", look)
    assert main(["prepare"]) == code
    before, meanwhile = handlers
    assert meanwhile is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_recipes_are_listed_merged_and_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = project / "recipes"
    recipes.mkdir()
    (recipes / "small.yaml").write_text("# A small recipe\nseed: 7\n", encoding="utf-8")
    assert main(["recipe"]) == 0
    assert capsys.readouterr().out.split() == ["small", "A", "small", "recipe"]
    (recipes / "tiny.yaml").write_text(PARAMS.read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["recipe", "small"]) == 0
    assert "dvc repro" in capsys.readouterr().out
    assert "\nseed: 7\n" in PARAMS.read_text(encoding="utf-8")
    assert main(["recipe", "large"]) == 2
    assert capsys.readouterr().err.startswith("posttrain recipe: recipes/large.yaml\n")
