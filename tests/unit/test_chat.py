"""Chat: what is shown of a reply, that a model's text cannot act on the terminal, and a real model of a few neurons."""

import io
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.commands import chat
from posttrain.commands.chat import Reply, block, page, printable
from posttrain.generation.engine import Sampling
from posttrain.outputs.manifest import publish
from posttrain.params.file import load_params
from posttrain.paths import GRPO_MODEL, PARAMS
from posttrain.prompts import completion_text
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.models import align_special_tokens
from tests.conftest import ParamsWith

RIGHT = Reply(completion_text("3x = 15\nx = 5", "x = 5"), True)
WRONG = Reply(completion_text("3x = 5", "x = 2"), True)


def test_thoughts_and_answer_are_set_apart() -> None:
    assert block("m", RIGHT, 80) == ["m", "  thoughts:", "    3x = 15", "    x = 5", "  answer:", "    x = 5"]


@pytest.mark.parametrize(
    ("completion", "finished", "shown"),
    [
        ("x is 5", True, ["m", "  (neither thoughts nor an answer; as written:)", "    x is 5"]),
        ("<answer>5</answer>", True, ["m", "  thoughts:", "    (none)", "  answer:", "    5"]),
        ("<think>a</think>", True, ["m", "  thoughts:", "    a", "  answer:", "    (none declared)"]),
        ("</think>a<think>", True, ["m", "  (neither thoughts nor an answer; as written:)", "    </think>a<think>"]),
        (
            "<think>a</think>",
            False,
            ["m", "  thoughts:", "    a", "  answer:", "    (none declared)", "  (cut off at evaluate.max_new_tokens)"],
        ),
    ],
)
def test_a_reply_of_another_form_is_shown_as_what_it_is(completion: str, finished: bool, shown: list[str]) -> None:
    assert block("m", Reply(completion, finished), 80) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("right\rwrong\b", "right\\rwrong\\x08"),
        ("\x9b31m", "\\x9b31m"),  # the eight-bit form of escape and bracket
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
        ("é ≤ 数 👍\nx", "é ≤ 数 👍\nx"),
        ("a\tb", "a   b"),
    ],
)
def test_text_has_no_power_over_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_two_models_stand_beside_each_other_if_there_is_room() -> None:
    lines = page([("one", RIGHT), ("two", WRONG)], 85)
    assert lines[0].split() == ["one", "|", "two"]
    assert {line.index("|") for line in lines} == {42}
    assert lines[2].split("|")[1].strip() == "3x = 5"
    assert lines[4].split("|") == ["  answer:" + " " * 33, "      x = 2"]  # rows do not have to agree
    narrow = page([("one", RIGHT), ("two", WRONG)], 79)
    assert narrow == [*block("one", RIGHT, 79), *block("two", WRONG, 79)]


def test_long_lines_are_wrapped() -> None:
    assert max(map(len, block("m", Reply("word " * 100 + "x" * 300, True), 60))) <= 60


# ---------------------------------------------------------------------------------------------------------------------
# A real model


def make_model(folder: Path) -> None:
    params = load_params(PARAMS)
    tokenizer = train_tokenizer([RIGHT.completion], params.model.scratch.vocab_size)
    model = random_model(params.model.scratch, tokenizer)
    align_special_tokens(model, tokenizer)
    made = Path("unpublished")
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    publish(made, folder, {"stage": "grpo"})


def test_a_question_for_scripts_is_answered_the_same_every_time(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(GRPO_MODEL)
    capsys.readouterr()
    shown = []
    for _ in range(2):
        assert main(["chat", "--ask", "Solve: 3x - 5 = 10"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert shown[0].startswith("models/grpo\n  ")


def test_questions_are_read_until_the_input_ends(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(GRPO_MODEL)
    make_model(Path("other"))
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("Solve: 3x = 6\n\nSolve: 2x = 6\n"))
    assert main(["chat", "models/grpo", "--compare", "other"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("models/grpo") == 2
    assert shown.count("other") == 2


def test_sampling_is_that_of_evaluation(params_with: ParamsWith) -> None:
    assert chat.sampling(params_with({"evaluate.top_p": 0.9}).evaluate) == Sampling(80, 0.6, 0.9)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["--ask", "x"], "models/grpo"),
        (["nowhere", "--ask", "x"], "nowhere"),
        (["empty", "--ask", "x"], "empty"),
        (["model", "--compare", "models/sft", "--ask", "x"], "models/sft"),
        (["model", "--ask", " "], "--ask"),
    ],
)
def test_a_missing_model_or_question_exits_2(
    arguments: list[str], where: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    make_model(Path("model"))
    capsys.readouterr()
    assert main(["chat", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"posttrain chat: {where}\n  got ")
