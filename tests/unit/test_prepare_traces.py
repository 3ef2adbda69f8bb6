"""Traces: their tags, what they conclude, and which of them SFT does not get."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.commands.check.scores import form_of_traces
from posttrain.data import prepared
from posttrain.data.golds import Golds
from posttrain.data.trace_form import Trace, parse
from posttrain.errors import InputError
from posttrain.outputs.manifest import require_complete
from posttrain.outputs.rows import read_rows
from posttrain.params.schema import Params
from posttrain.paths import PREPARED
from posttrain.rewards.completion import Completion
from posttrain.rewards.form import format as form_reward
from posttrain.rewards.scoring import Verifier
from stages import prepare
from tests.unit.test_prepare import ROWS, a, collected, out, problems_of, save, traces_of

ParamsWith = Callable[[dict[str, Any]], Params]

R1 = "<think>\nTwo and two.\nSo 4.\n</think>\n\nThe sum is **4**.\n\n\\boxed{4}"
FORM = "<think>\nTwo and two.\nSo 4.\n</think>\n<answer>\n4\n</answer>"


@pytest.mark.parametrize(
    "text",
    [
        FORM,
        R1,
        R1 + "<｜end▁of▁sentence｜>",
        R1.removeprefix("<think>\n"),  # the template of R1 has written the opening tag
        "<think>Two and two.\nSo 4.</think><answer>4</answer>",
        "<think>\nTwo and two.\nSo 4.\n</think>\n<answer>It is \\boxed{4}.</answer> I am sure.<|im_end|>\n",
        "<think>\nTwo and two.\nSo 4.\n</think>\nIt is four.",
        "<|begin_of_thought|>\nTwo and two.\nSo 4.\n<|end_of_thought|>\n"
        "<|begin_of_solution|>\nSo \\boxed{4}.\n<|end_of_solution|>",
        "<reasoning>Two and two.\nSo 4.</reasoning><answer>4.0</answer>",
        "<｜begin▁of▁thinking｜>Two and two.\nSo 4.<｜end▁of▁thinking｜>\\boxed{4}",
        "Two and two.\nSo 4.",
    ],
)
def test_tags_are_recognised_and_never_doubled(
    project: Path, params_with: ParamsWith, verifier: Verifier, text: str
) -> None:
    found = problems_of(params_with(ROWS), [a("2 + 2?", "4", text)])
    assert traces_of(found, Golds(verifier, Path("verdicts"))) == [FORM]
    assert form_reward(Completion(FORM)) == 1.0


@pytest.mark.parametrize(
    ("text", "conclusion"),
    [
        ("So \\boxed{\\frac{1}{2}} it is.", "\\frac{1}{2}"),
        ("\\boxed{1}, no: \\boxed{2}", "2"),
        ("Work.\n#### 1,200", "1,200"),
        ("It is 5.", None),
        ("<think>a \\boxed{3}</think>It is three.", "3"),
        ("<think>a \\boxed{3}</think>\\boxed{4}", "4"),
        ("<think>a</think><answer>x = 5</answer>", "x = 5"),
        ("a<answer>7</answer>", "7"),
    ],
)
def test_what_a_trace_concludes(text: str, conclusion: str | None) -> None:
    found = parse(text)
    assert isinstance(found, Trace)
    assert found.conclusion == conclusion


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("<think></think>\\boxed{4}", "empty"),
        ("<think>a</think><answer> </answer>", "empty"),
        ("<think>a, and then the tokens ended", "truncated"),
        ("<think>a</think>", "truncated"),
        ("<think>a</think><answer>4", "truncated"),
        ("<think>a<think>b</think>4", "mis-tagged"),
        ("<think>a</think>b</think>4", "mis-tagged"),
        ("<think>say <answer>4</answer></think>4", "mis-tagged"),
        ("<think>a</think><answer>4</answer><answer>5</answer>", "mis-tagged"),
        ("<think>a</think></answer>4<answer>", "mis-tagged"),
        ("Sure: <think>a</think>4", "mis-tagged"),
        ("</think>a<think>4", "empty"),
    ],
)
def test_what_is_wrong_with_a_form(text: str, fault: str) -> None:
    assert parse(text) == fault


def test_traces_that_contradict_the_gold_are_left_out_and_counted(
    project: Path, params_with: ParamsWith, verifier: Verifier
) -> None:
    right = ["a \\boxed{168}", "<think>c</think><answer>168.0</answer>"]
    wrong = ["<think>d</think>\n<answer>1689</answer>", "e\n#### 5"]
    rows = [a("q?", "168", right[0], wrong[0]), a("r?", "168", right[1], wrong[1]), a("s?", "168", "<think>cut")]
    found = problems_of(params_with(ROWS), rows)
    traces = collected(found, Golds(verifier, Path("verdicts")))
    assert {row["completion"].split("\n")[1] for row in traces.rows()} == {"a \\boxed{168}", "c"}
    told = {rule["name"]: (rule["in"], rule["left_out"]) for rule in traces.record()}
    assert told["contradicting"] == (4, 2)
    assert told["truncated"] == (5, 1)
    assert told["repeated"] == (2, 0)
    notes = [example["note"] for example in traces.applied["contradicting"].examples]
    assert notes == ["concludes 1689; the gold is 168", "concludes 5; the gold is 168"]
    assert traces.fates == {0: ["contradicting"], 1: ["contradicting"], 2: ["truncated"]}
    assert out(found) == {}  # the problems stay: GRPO has a gold for them


def test_contradicting_traces_that_are_kept_keep_their_own_answer(project: Path, params_with: ParamsWith) -> None:
    params = params_with({**ROWS, "prepare.traces.contradicting": "keep"})
    found = problems_of(params, [a("q?", "168", "<think>d</think>\n<answer>1689</answer>")])
    assert traces_of(found) == ["<think>\nd\n</think>\n<answer>\n1689\n</answer>"]


def test_a_sentence_keeps_the_box_that_holds_its_gold(project: Path, params_with: ParamsWith) -> None:
    text = "Halves.\nThe answer is $\\boxed{\\frac{1}{2}}$."
    for pattern in (r"\\boxed\{(.*?)\}", r"\\boxed\{(.*)\}"):
        found = problems_of(params_with({**ROWS, "prepare.answer_pattern": pattern}), [a("q?", text, text)])
        assert found.golds == ["\\frac{1}{2}"]
        assert traces_of(found) == [f"<think>\n{text}\n</think>\n<answer>\n\\frac{{1}}{{2}}\n</answer>"]


def test_traces_for_sft_alone_need_no_gold_but_a_conclusion(project: Path, params_with: ParamsWith) -> None:
    found = problems_of(params_with(ROWS), [a("q?", "", R1, "So it is.", use="sft"), a("r?", "1", "x", use="grpo")])
    traces = collected(found)
    assert [row["completion"] for row in traces.rows()] == [FORM]
    assert traces.applied["unanswered"].rows_out == 1


def test_long_and_repeated_traces_go(project: Path, params_with: ParamsWith) -> None:
    found = problems_of(
        params_with({**ROWS, "prepare.traces.max_chars": 58}), [a("q?", "1", "x" * 20, "y" * 21, "x" * 20)]
    )
    traces = collected(found)
    assert [len(row["completion"]) for row in traces.rows()] == [58]  # 38 of them tags and the answer
    assert {name: rule.rows_out for name, rule in traces.applied.items() if rule.rows_out} == {
        "too-long": 1,
        "repeated": 1,
    }


def test_faulty_rows_are_left_out_up_to_a_share(project: Path, params_with: ParamsWith) -> None:
    rows = [a("q?"), a("", "", fault="`answer` is null"), a("r?"), a("s?")]
    prepared.require_sound(problems_of(params_with({**ROWS, "prepare.max_faulty_frac": 0.25}), rows))
    with pytest.raises(InputError) as caught:
        prepared.require_sound(problems_of(params_with({**ROWS, "prepare.max_faulty_frac": 0.2}), rows))
    assert caught.value.got == "1 of 4 rows that cannot be used: 1 times `answer` is null, first in train:1"


def test_the_manifest_counts_traces_by_rule(
    project: Path, params_with: ParamsWith, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question": f"{n} + 1?", "why": f"<think>t{n}</think>\\boxed{{{n + 1}}}", "gold": f"{n + 1}"} for n in range(9)
    ]
    rows += [{"question": "9 + 1?", "why": "<think>t</think>\\boxed{11}", "gold": "10"}]
    save("data/source/train.jsonl", *rows)
    save("data/source/test.jsonl", {"question": "t?", "why": "w", "gold": "1"})
    columns = {"problem": "question", "solution": "why", "answer": "gold", "keep": []}
    prepare.run(params_with({**ROWS, "prepare.columns": columns, "prepare.test_split": "test"}))
    manifest = require_complete(PREPARED, "prepare")
    assert manifest["rows"] == {"sft": 9, "train": 10, "test": 1}
    (rule,) = [rule for rule in manifest["trace_rules"] if rule["left_out"]]
    assert (rule["name"], rule["in"], rule["out"]) == ("contradicting", 10, 9)
    assert rule["examples"] == [{"row": "data/source:9", "problem": "9 + 1?", "note": "concludes 11; the gold is 10"}]
    assert "left out: 1 traces that conclude something else" in capsys.readouterr().out
    assert all(row["completion"].count("<think>") == 1 for row in read_rows(PREPARED, "sft"))


@pytest.mark.parametrize(("scores", "level"), [([0.0, 0.0], "fault"), ([0.0, 1.0], "ok"), ([], None)])
def test_a_form_that_the_run_pays_nothing_for_is_a_fault(scores: list[float], level: str | None) -> None:
    found = form_of_traces({"format": scores}, {"accuracy": 1.0, "format": 0.1})
    assert [finding.level for finding in found] == ([level] if level else [])
    assert form_of_traces({"format": scores}, {"accuracy": 1.0}) == []
