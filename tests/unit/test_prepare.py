"""Equations, sources, and every step from rows to data/prepared."""

import hashlib
import json
import random
import re
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from posttrain.data import problems as data_problems
from posttrain.data.equations import Equation, equations, teacher_trace
from posttrain.data.problems import Examples, Problem, cap, decontaminate, deduplicate, gradable, held_out, normalise
from posttrain.data.sources import load_rows, read_lines
from posttrain.errors import InputError
from posttrain.judge.kinds import Kind
from posttrain.outputs.manifest import MANIFEST, require_complete
from posttrain.params.schema import Equations, Params, Teacher
from posttrain.paths import PREPARED
from posttrain.rewards.scoring import Verifier
from stages import prepare

ParamsWith = Callable[[dict[str, Any]], Params]

ALWAYS_RIGHT = Teacher(operation_slip_frac=0)
ALWAYS_WRONG = Teacher(operation_slip_frac=1)

SMALL = {
    "prepare.dataset": "equations",
    "prepare.test_frac": 0.25,
    "prepare.max_train": None,
    "prepare.max_test": None,
    "prepare.equations.max_coefficient": 4,
    "prepare.equations.max_solution": 4,
    "prepare.equations.max_constant": 4,
    "prepare.equations.traces_per_problem": 3,
    "prepare.equations.teacher.operation_slip_frac": 0.4,
}
ROWS = {
    "prepare.dataset": "data",
    "prepare.revision": None,
    "prepare.train_split": "train",
    "prepare.test_split": None,
    "prepare.test_frac": 0.2,
    "prepare.max_train": None,
    "prepare.max_test": None,
    "prepare.columns": {"problem": "question", "solution": "answer", "answer": "answer", "keep": []},
    "prepare.answer_pattern": None,
    "prepare.drop_pattern": None,
}
GSM8K_FORM = {**ROWS, "prepare.answer_pattern": r"####\s*(.+)", "prepare.drop_pattern": r"<<[^>]*>>"}


def bounds(coefficient: int, solution: int, constant: int) -> Equations:
    return Equations(
        max_coefficient=coefficient,
        max_solution=solution,
        max_constant=constant,
        traces_per_problem=1,
        teacher=ALWAYS_RIGHT,
    )


def problem(text: str, answer: str = "1") -> Problem:
    return Problem(text, answer, ())


def save(path: str, *rows: dict[str, Any]) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def row(question: str, answer: str = "It is 1.\n#### 1") -> dict[str, str]:
    return {"question": question, "answer": answer}


def lines(name: str) -> list[dict[str, Any]]:
    text = (PREPARED / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Equations


def test_equations_within_small_bounds() -> None:
    # a in {2, 3}, x in {1, 2}, b in {1}, + and -: 2 x 2 x 1 x 2 = 8.
    assert {(item.problem, item.answer) for item in equations(bounds(3, 2, 1))} == {
        ("Solve: 2x + 1 = 3", "x = 1"),
        ("Solve: 2x - 1 = 1", "x = 1"),
        ("Solve: 2x + 1 = 5", "x = 2"),
        ("Solve: 2x - 1 = 3", "x = 2"),
        ("Solve: 3x + 1 = 4", "x = 1"),
        ("Solve: 3x - 1 = 2", "x = 1"),
        ("Solve: 3x + 1 = 7", "x = 2"),
        ("Solve: 3x - 1 = 5", "x = 2"),
    }


@pytest.mark.parametrize(
    ("coefficient", "solution", "constant", "count"),
    [(2, 1, 1, 2), (3, 2, 1, 8), (2, 3, 4, 24), (9, 9, 9, 1296)],  # (a - 1) x x x b x 2
)
def test_every_equation_is_true_and_there_once(coefficient: int, solution: int, constant: int, count: int) -> None:
    found = equations(bounds(coefficient, solution, constant))
    assert len({item.problem for item in found}) == len(found) == count
    for item in found:
        match = re.fullmatch(r"Solve: (\d+)x ([+-]) (\d+) = (-?\d+)", item.problem)
        assert match is not None, item.problem
        a, b, right = int(match[1]), int(match[2] + match[3]), int(match[4])
        assert a * int(item.answer.removeprefix("x = ")) + b == right, item


@pytest.mark.parametrize(
    ("equation", "teacher", "completion"),
    [
        (
            Equation(3, -5, 5),  # 3x - 5 = 10, the tutorial's
            ALWAYS_RIGHT,
            "<think>\nAdding 5: 3x = 10 + 5 = 15\nDividing by 3: x = 15 / 3 = 5\n"
            "Verification: 3(5) - 5 = 10\n</think>\n<answer>\nx = 5\n</answer>",
        ),
        (
            Equation(2, 3, 2),  # 2x + 3 = 7
            ALWAYS_RIGHT,
            "<think>\nSubtracting 3: 2x = 7 - 3 = 4\nDividing by 2: x = 4 / 2 = 2\n"
            "Verification: 2(2) + 3 = 7\n</think>\n<answer>\nx = 2\n</answer>",
        ),
        (
            Equation(2, -9, 1),  # 2x - 9 = -7
            ALWAYS_RIGHT,
            "<think>\nAdding 9: 2x = -7 + 9 = 2\nDividing by 2: x = 2 / 2 = 1\n"
            "Verification: 2(1) - 9 = -7\n</think>\n<answer>\nx = 1\n</answer>",
        ),
    ],
)
def test_a_right_trace_by_hand(equation: Equation, teacher: Teacher, completion: str) -> None:
    assert {teacher_trace(equation, teacher, random.Random(seed)) for seed in range(20)} == {completion}


def test_the_two_wrong_traces_by_hand() -> None:
    once = (  # 3x = 15, and 15 - 3 = 12 instead of 15 / 3
        "<think>\nAdding 5: 3x = 10 + 5 = 15\nSubtracting 3: x = 15 - 3 = 12\n"
        "Verification: 3(12) - 5 = 10\n</think>\n<answer>\nx = 12\n</answer>"
    )
    twice = (  # 5 subtracted instead of added: 3x = 5, and 5 - 3 = 2
        "<think>\nSubtracting 5: 3x = 10 - 5 = 5\nSubtracting 3: x = 5 - 3 = 2\n"
        "Verification: 3(2) - 5 = 10\n</think>\n<answer>\nx = 2\n</answer>"
    )
    traces = {teacher_trace(Equation(3, -5, 5), ALWAYS_WRONG, random.Random(seed)) for seed in range(40)}
    assert traces == {once, twice}


def test_the_shares_of_mistakes() -> None:
    rng = random.Random(0)
    teacher = Teacher(operation_slip_frac=0.6)
    traces = [teacher_trace(Equation(3, -5, 5), teacher, rng) for _ in range(10_000)]
    answers = Counter(trace.split("<answer>\n")[1].split("\n")[0] for trace in traces)
    # Right 0.4, one slip 0.3, two slips 0.3; four standard deviations are 4 x sqrt(0.4 x 0.6 / 10000) = 0.02.
    assert answers["x = 5"] / 10_000 == pytest.approx(0.4, abs=0.02)
    assert answers["x = 12"] / 10_000 == pytest.approx(0.3, abs=0.02)
    assert answers["x = 2"] / 10_000 == pytest.approx(0.3, abs=0.02)
    assert set(answers) == {"x = 5", "x = 12", "x = 2"}


def test_the_seed_draws_the_mistakes_and_nothing_else(params_with: ParamsWith) -> None:
    one = data_problems.built_in(params_with({**SMALL, "seed": 1}))
    again = data_problems.built_in(params_with({**SMALL, "seed": 1}))
    other = data_problems.built_in(params_with({**SMALL, "seed": 2}))
    assert one == again
    for part in (0, 1):
        assert [(p.text, p.answer) for p in one[part]] == [(p.text, p.answer) for p in other[part]]
    assert [p.completions for p in one[0]] != [p.completions for p in other[0]]


def test_built_in_splits_all_equations(params_with: ParamsWith) -> None:
    train, test = data_problems.built_in(params_with(SMALL))
    # 3 x 4 x 4 x 2 = 96 equations in two parts; three traces for each to train on, none for the others.
    assert len({p.text for p in [*train, *test]}) == len(train) + len(test) == 96
    assert {len(p.completions) for p in train} == {3}
    assert {len(p.completions) for p in test} == {0}


# Sources


@pytest.mark.parametrize(
    "content",
    [
        b'{"question": "a", "answer": "1"}\n{"question": "b", "answer": "2"}\n',
        b'{"question": "a", "answer": "1"}\n{"question": "b", "answer": "2"}',  # no line end at the end
        b'\xef\xbb\xbf{"question": "a", "answer": "1"}\n{"question": "b", "answer": "2"}\n',  # byte order mark
        b'\n{"question": "a", "answer": "1"}\n\n  \n{"question": "b", "answer": "2"}\n\n',  # empty lines
        b'{"question": "a", "answer": "1"}\r\n{"question": "b", "answer": "2"}\r\n',  # from Windows
    ],
)
def test_a_file_of_rows(project: Path, params_with: ParamsWith, content: bytes) -> None:
    Path("rows.jsonl").write_bytes(content)
    rows = [{"question": "a", "answer": "1"}, {"question": "b", "answer": "2"}]
    assert load_rows(params_with({**ROWS, "prepare.dataset": "rows.jsonl"}).prepare, "train") == rows


def test_a_line_separator_within_a_string_ends_no_line(project: Path) -> None:
    text = "a\u2028b\u2029c\x85d"
    Path("rows.jsonl").write_text(json.dumps({"question": text}, ensure_ascii=False), encoding="utf-8")
    assert read_lines(Path("rows.jsonl")) == [{"question": text}]


def test_a_folder_of_splits(project: Path, params_with: ParamsWith) -> None:
    save("data/train.jsonl", row("a"), row("b"))
    save("data/test.jsonl", row("c"))
    config = params_with(ROWS).prepare
    assert load_rows(config, "train") == [row("a"), row("b")]
    assert load_rows(config, "test") == [row("c")]


def test_a_folder_of_save_to_disk(project: Path, params_with: ParamsWith) -> None:
    from datasets import Dataset, DatasetDict

    train, test = Dataset.from_list([row("a"), row("b")]), Dataset.from_list([row("c")])
    DatasetDict({"train": train, "test": test}).save_to_disk("data")
    train.save_to_disk("single")
    config = params_with(ROWS).prepare
    assert load_rows(config, "train") == [row("a"), row("b")]
    assert load_rows(config, "test") == [row("c")]
    assert load_rows(params_with({**ROWS, "prepare.dataset": "single"}).prepare, "train") == [row("a"), row("b")]
    with pytest.raises(InputError) as caught:
        load_rows(config, "validation")
    assert "train, test" in caught.value.got
    assert "validation" in caught.value.wanted


@pytest.mark.parametrize(
    ("content", "where", "got"),
    [
        (b"", "rows.jsonl", "no rows"),
        (b"\n \n", "rows.jsonl", "no rows"),
        (b'{"question": "a", "answer": "1"}\n{"question": "b\n', "rows.jsonl: line 2", "Unterminated string"),
        (b'\n\n{"question": "a", answer: 1}\n', "rows.jsonl: line 3", "double quotes"),
        (b'{"question": "a", "answer": "1"}\n["b", "2"]\n', "rows.jsonl: line 2", "list"),
        (b'"question"\n', "rows.jsonl: line 1", "str"),
        (b'{"question": "a", "answer": "1"}\n{"question": "caf\xe9"}\n', "rows.jsonl: line 2", "not UTF-8"),
        ('{"question": "a"}\n'.encode("utf-16"), "rows.jsonl: line 1", "not UTF-8"),
        (b'{"question": "a", "solution": "1"}\n', "rows.jsonl: row 1", "columns question, solution"),
        (b"{}\n", "rows.jsonl: row 1", "none"),
        (b'{"question": "a", "answer": "1"}\n{"question": "", "answer": "1"}\n', "rows.jsonl: row 2", "`question`"),
        (b'{"question": "a", "answer": " \\n"}\n', "rows.jsonl: row 1", "`answer`"),
        (b'{"question": "a", "answer": null}\n', "rows.jsonl: row 1", "`answer` is None"),
        (b'{"question": "a", "answer": 18}\n', "rows.jsonl: row 1", "`answer` is 18"),
        (b'{"question": "half an emoji: \\ud83d", "answer": "1"}\n', "rows.jsonl: row 1", "`question`"),
    ],
)
def test_a_file_that_cannot_be_used_names_the_place(
    project: Path, params_with: ParamsWith, content: bytes, where: str, got: str
) -> None:
    Path("rows.jsonl").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_rows(params_with({**ROWS, "prepare.dataset": "rows.jsonl"}).prepare, "train")
    assert caught.value.where == where
    assert got in caught.value.got
    assert caught.value.wanted
    assert caught.value.do


@pytest.mark.parametrize("dataset", ["rows.jsonl", "sub/rows.jsonl", "./data", "/nowhere/data", "~/nowhere"])
def test_a_path_that_is_not_there(project: Path, params_with: ParamsWith, dataset: str) -> None:
    with pytest.raises(InputError) as caught:
        load_rows(params_with({**ROWS, "prepare.dataset": dataset}).prepare, "train")
    assert Path(caught.value.where) == Path(dataset)
    assert "no such file" in caught.value.got


def test_a_folder_without_the_split_lists_what_is_there(project: Path, params_with: ParamsWith) -> None:
    save("data/train.jsonl", row("a"))
    with pytest.raises(InputError) as caught:
        load_rows(params_with(ROWS).prepare, "test")
    assert caught.value.where == "data"
    assert "train.jsonl" in caught.value.got
    assert "test.jsonl" in caught.value.wanted


def test_a_hub_name_needs_a_commit_and_no_network_to_say_so(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", reached)
    monkeypatch.setattr(socket, "getaddrinfo", reached)
    with pytest.raises(InputError) as caught:
        load_rows(params_with({**ROWS, "prepare.dataset": "owner/name"}).prepare, "train")
    assert "prepare.revision" in caught.value.where
    assert "owner/name" in caught.value.wanted


def test_a_hub_name_that_cannot_be_reached_is_wrong_input(project: Path, params_with: ParamsWith) -> None:
    changes = {**ROWS, "prepare.dataset": "owner/name", "prepare.revision": "0123456789abcdef0123456789abcdef01234567"}
    with pytest.raises(InputError) as caught:
        load_rows(params_with(changes).prepare, "train")
    assert "owner/name" in caught.value.where


# Normalise


def test_gsm8ks_form_becomes_thoughts_and_answer(params_with: ParamsWith) -> None:
    answer = (
        "Three trays hold 3*12=<<3*12=36>>36 rolls.\n"
        "Without the two that were eaten, 36-2=<<36-2=34>>34 are left.\n"
        "#### 34"
    )
    dropped: Counter[str] = Counter()
    found = normalise([row("  How many rolls are left?\n", answer)], params_with(GSM8K_FORM).prepare, dropped)
    completion = (
        "<think>\nThree trays hold 3*12=36 rolls.\n"
        "Without the two that were eaten, 36-2=34 are left.\n</think>\n"
        "<answer>\n34\n</answer>"
    )
    assert found == [Problem("How many rolls are left?", "34", (completion,))]
    assert dropped.total() == 0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("Work.\n#### 1,200", "1,200"),
        ("Work.\n####7", "7"),
        ("Work.\n####   -7  \n", "-7"),
        ("Work costs $5.\n#### $5", "$5"),
    ],
)
def test_the_gold_is_group_1_of_answer_pattern(params_with: ParamsWith, answer: str, gold: str) -> None:
    (found,) = normalise([row("Q?", answer)], params_with(GSM8K_FORM).prepare, Counter())
    assert found.answer == gold
    assert found.completions[0].endswith(f"</think>\n<answer>\n{gold}\n</answer>")
    assert "####" not in found.completions[0]


def test_rows_without_a_match_of_answer_pattern_are_counted(params_with: ParamsWith) -> None:
    dropped: Counter[str] = Counter()
    rows = [row("a", "It is 1."), row("b"), row("c", "It is ### 3")]
    assert [p.text for p in normalise(rows, params_with(GSM8K_FORM).prepare, dropped)] == ["b"]
    assert dropped == {"without a match of prepare.answer_pattern": 2}


def test_a_group_that_takes_no_part_is_no_match(params_with: ParamsWith) -> None:
    dropped: Counter[str] = Counter()
    config = params_with({**ROWS, "prepare.answer_pattern": r"####(?: (\d+))?"}).prepare
    assert [p.text for p in normalise([row("a", "It is ####"), row("b")], config, dropped)] == ["b"]
    assert dropped.total() == 1


def test_without_patterns_columns_are_taken_as_they_are(params_with: ParamsWith) -> None:
    columns = {"problem": "q", "solution": "why", "answer": "a", "keep": []}
    config = params_with({**ROWS, "prepare.columns": columns}).prepare
    (found,) = normalise([{"q": "Q?", "why": " Because #### of\nthis. ", "a": " 1/2 ", "extra": 3}], config, Counter())
    completion = "<think>\nBecause #### of\nthis.\n</think>\n<answer>\n1/2\n</answer>"
    assert found == Problem("Q?", "1/2", (completion,))


# From problems to sets


def test_golds_that_no_answer_meets_are_left_out_with_examples(verifier: Verifier) -> None:
    golds = [
        "34",
        "?",
        "x = 5",
        "\\frac{",
        "$7",
        "9 (apples)",
        "28\\%",
        "see the proof above",
        "MCQ",
        "proof",
        "Monday",
    ]
    dropped: Counter[str] = Counter()
    examples: Examples = {}
    kept = gradable([problem(gold, gold) for gold in golds], ["prose"], verifier, dropped, examples)
    assert [p.text for p in kept] == ["34", "x = 5", "$7", "9 (apples)", "28\\%", "Monday"]
    unreadable, prose = "with a gold that the judge cannot read", "with a gold that is prose (prepare.drop_golds)"
    assert dropped == {unreadable: 2, prose: 3}
    assert examples == {unreadable: ["?", "\\frac{"], prose: ["see the proof above", "MCQ", "proof"]}


def test_kinds_to_leave_out_are_a_choice(verifier: Verifier) -> None:
    golds = ["34", "\\sqrt{2}", "(B)", "yes", "1,2", "it is right as the theorem says", "5 cm", "20%", "x>3"]
    problems = [problem(gold, gold) for gold in golds]

    def kept(*kinds: Kind) -> list[str]:
        return [p.text for p in gradable(problems, kinds, verifier, Counter(), {})]

    assert kept() == golds
    assert kept("choice", "words", "prose") == ["34", "\\sqrt{2}", "1,2", "5 cm", "20%", "x>3"]
    assert kept("formula", "several", "unit", "percent", "interval", "prose") == ["34", "(B)", "yes"]


def test_problems_are_equal_up_to_case_and_white_space() -> None:
    assert problem("How  many\nrolls? ").key == problem("how many Rolls?").key
    assert problem("How many rolls?").key != problem("How many rolls").key
    assert problem("Solve: 3x - 5 = 10").key == hashlib.sha256(b"solve: 3x - 5 = 10").hexdigest()
    assert problem("a").key.startswith(problem("a").id)
    assert len(problem("a").id) == 12


def test_the_first_of_equal_problems_stays() -> None:
    problems = [problem("A b", "1"), problem("c", "2"), problem("a  B", "3"), problem("C", "4"), problem("d", "5")]
    dropped: Counter[str] = Counter()
    assert [p.answer for p in deduplicate(problems, dropped)] == ["1", "2", "5"]
    assert dropped == {"duplicates with another gold": 2}


def test_equal_problems_with_one_gold_keep_all_their_traces() -> None:
    problems = [Problem("a b", "1", ("x",)), Problem("A  b", "1", ("y", "x")), Problem("a B", "2", ("z",))]
    dropped: Counter[str] = Counter()
    assert deduplicate(problems, dropped) == [Problem("a b", "1", ("x", "y"))]
    assert dropped == {"duplicates": 1, "duplicates with another gold": 1}


def test_training_problems_of_the_test_set_go() -> None:
    train, test = [problem("a"), problem("B  b"), problem("c")], [problem("b b"), problem("d")]
    dropped: Counter[str] = Counter()
    assert [p.text for p in decontaminate(train, test, dropped)] == ["a", "c"]
    assert dropped.total() == 1


def test_cap_keeps_the_same_problems_whatever_the_order() -> None:
    problems = [problem(f"problem {number}") for number in range(20)]
    shuffled = random.Random(1).sample(problems, 20)
    dropped: Counter[str] = Counter()
    kept = cap(problems, 5, dropped)
    assert cap(shuffled, 5, Counter()) == kept
    assert len(kept) == 5
    assert dropped.total() == 15
    assert kept != problems[:5]  # the hash chooses, not the place in the file
    assert cap(problems, 6, Counter())[:5] == kept  # more is the same and one more
    for limit in (None, 20, 21):
        counted: Counter[str] = Counter()
        assert cap(shuffled, limit, counted) == cap(problems, None, Counter())
        assert counted.total() == 0


def test_held_out_is_decided_by_the_text_alone() -> None:
    problems = [problem(f"problem {number}") for number in range(2000)]
    chosen = [held_out(p, 0.2) for p in problems]
    # 400 expected; four standard deviations are 4 x sqrt(2000 x 0.2 x 0.8) = 72.
    assert sum(chosen) == pytest.approx(400, abs=72)
    assert [held_out(Problem(p.text.upper() + " ", "9", ("trace",)), 0.2) for p in problems] == chosen
    # A greater share holds out the same problems and more.
    assert all(held_out(p, 0.3) for p, out in zip(problems, chosen, strict=True) if out)
    # sha256 of "abc" begins with ba7816bf, and 0xba7816bf / 2**32 = 0.7284.
    assert [held_out(problem("abc"), share) for share in (0.72, 0.728, 0.729, 0.73)] == [False, False, True, True]


# The stage


def test_equations_end_to_end(project: Path, params_with: ParamsWith) -> None:
    prepare.run(params_with(SMALL))
    sft, train, test = lines("sft.jsonl"), lines("train.jsonl"), lines("test.jsonl")
    assert len(train) + len(test) == 96
    assert len(sft) == 3 * len(train)
    texts = {row["problem"] for row in test}
    assert texts.isdisjoint(row["problem"] for row in train)
    assert texts.isdisjoint(row["problem"] for row in sft)
    assert {row["id"] for row in sft} == {row["id"] for row in train}
    assert all(set(row) == {"id", "problem", "completion"} for row in sft)
    assert all(set(row) == {"id", "problem", "answer"} for row in [*train, *test])
    manifest = require_complete(PREPARED, "prepare")
    assert manifest["rows"] == {"sft": len(sft), "train": len(train), "test": len(test)}
    assert manifest["dropped"] == {}
    assert manifest["files"] == {
        name: hashlib.sha256((PREPARED / name).read_bytes()).hexdigest()
        for name in ("sft.jsonl", "train.jsonl", "test.jsonl")
    }
    assert list(PREPARED.parent.glob(".*")) == []


def test_equal_params_give_equal_bytes_anywhere(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.run(params_with({**SMALL, "seed": 1}))
    first = contents(PREPARED)
    prepare.run(params_with({**SMALL, "seed": 1}))
    assert contents(PREPARED) == first
    (project / "elsewhere").mkdir()
    shutil.copy("dvc.yaml", "elsewhere")
    monkeypatch.chdir(project / "elsewhere")
    prepare.run(params_with({**SMALL, "seed": 1}))
    assert contents(PREPARED) == first
    prepare.run(params_with({**SMALL, "seed": 2}))
    other = contents(PREPARED)
    assert other["sft.jsonl"] != first["sft.jsonl"]
    assert (other["train.jsonl"], other["test.jsonl"]) == (first["train.jsonl"], first["test.jsonl"])


def test_every_row_that_is_left_out_is_counted(
    project: Path, params_with: ParamsWith, capsys: pytest.CaptureFixture[str]
) -> None:
    save(
        "data/train.jsonl",
        row("a?"),
        row("A? "),  # the first again
        row("b?", "It is 2."),  # without ####
        row("c?", "Who knows.\n#### ?"),  # a gold that cannot be read
        row("d?"),  # in the test set
        row("e?", "It is 5.\n#### 5"),
        row("f?"),
    )
    save("data/test.jsonl", row("D?"), row("g?", "Who knows.\n#### ?"), row("h?"))
    prepare.run(params_with({**GSM8K_FORM, "prepare.test_split": "test"}))
    assert sorted(row["problem"] for row in lines("train.jsonl")) == ["a?", "e?", "f?"]
    assert sorted(row["problem"] for row in lines("sft.jsonl")) == ["a?", "e?", "f?"]
    assert sorted(row["problem"] for row in lines("test.jsonl")) == ["D?", "h?"]
    manifest = require_complete(PREPARED, "prepare")
    assert manifest["rows"] == {"sft": 3, "train": 3, "test": 2}
    assert manifest["dropped"] == {
        "duplicates": 1,
        "training problems that are in the test set": 1,
        "with a gold that the judge cannot read": 2,
        "without a match of prepare.answer_pattern": 1,
    }
    printed = capsys.readouterr().out
    for reason, number in manifest["dropped"].items():
        assert f"{number} {reason}" in printed
    # 7 + 3 rows = 3 + 2 kept + 1 + 1 + 2 + 1 left out.
    assert sum(manifest["dropped"].values()) + 3 + 2 == 10


def test_rows_are_held_out_where_there_is_no_test_split(project: Path, params_with: ParamsWith) -> None:
    save("data/train.jsonl", *(row(f"question {number}?", f"Work.\n#### {number}") for number in range(40)))
    prepare.run(params_with({**GSM8K_FORM, "prepare.test_frac": 0.5}))
    train, test = lines("train.jsonl"), lines("test.jsonl")
    assert len(train) + len(test) == 40
    assert {row["problem"] for row in train}.isdisjoint(row["problem"] for row in test)
    assert all(held_out(problem(row["problem"]), 0.5) for row in test)
    assert {row["answer"] for row in [*train, *test]} == {str(number) for number in range(40)}


def test_the_caps_hold_and_the_order_of_the_file_does_not_matter(project: Path, params_with: ParamsWith) -> None:
    rows = [row(f"question {number}?") for number in range(40)]
    params = params_with({**GSM8K_FORM, "prepare.test_frac": 0.5, "prepare.max_train": 5, "prepare.max_test": 3})
    save("data/train.jsonl", *rows)
    prepare.run(params)
    first = contents(PREPARED)
    manifest = require_complete(PREPARED, "prepare")
    assert manifest["rows"] == {"sft": 5, "train": 5, "test": 3}
    assert sum(manifest["dropped"].values()) == 40 - 5 - 3
    save("data/train.jsonl", *reversed(rows))
    prepare.run(params)
    again = contents(PREPARED)
    assert {name for name in first if again[name] != first[name]} == {MANIFEST}  # it has the hash of the file
    assert require_complete(PREPARED, "prepare")["files"] == manifest["files"]


@pytest.mark.parametrize(
    ("train", "test", "named"),
    [
        ([row("a?", "It is 1.")], [row("b?")], "training"),  # no ####
        ([row("a?")], [row("b?", "It is 1.")], "test"),
        ([row("a?")], [row("A?")], "training"),  # the only one is in the test set
        ([row("a?")], [{"question": "b?"}], "columns question"),
    ],
)
def test_wrong_input_leaves_the_outputs_as_they_were(
    project: Path, params_with: ParamsWith, train: list[dict[str, str]], test: list[dict[str, str]], named: str
) -> None:
    prepare.run(params_with(SMALL))
    before = contents(PREPARED)
    save("data/train.jsonl", *train)
    save("data/test.jsonl", *test)
    with pytest.raises(InputError) as caught:
        prepare.run(params_with({**GSM8K_FORM, "prepare.dataset": "data", "prepare.test_split": "test"}))
    assert named in caught.value.got
    assert contents(PREPARED) == before
    assert list(PREPARED.parent.glob(".*")) == []


def test_an_empty_set_says_what_was_left_out(project: Path, params_with: ParamsWith) -> None:
    save("data/train.jsonl", row("a?", "It is 1."), row("b?", "It is 2."), row("c?", "Who knows.\n#### ?"))
    save("data/test.jsonl", row("d?"))
    with pytest.raises(InputError) as caught:
        prepare.run(params_with({**GSM8K_FORM, "prepare.test_split": "test"}))
    assert "no training problems" in caught.value.got
    assert "2 without a match of prepare.answer_pattern" in caught.value.got
    assert not PREPARED.exists()
