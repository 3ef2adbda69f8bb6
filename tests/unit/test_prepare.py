"""Equations, sources, and every step from rows to data/prepared."""

import hashlib
import json
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from posttrain.data import rules
from posttrain.data.equations import Equation, equation_rows, equations, teacher_trace
from posttrain.data.golds import Golds
from posttrain.data.problems import TEST, TRAIN, Problems, held_out, key_of
from posttrain.data.shuffle import Shuffle
from posttrain.data.table import Table, kept_on_disk
from posttrain.data.traces import Traces
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
    "prepare.dataset": "data/source",
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


def a(problem: str, answer: str = "1", *solutions: str, use: str = "both", fault: str | None = None) -> dict[str, Any]:
    """A row of a table; its source and number are added."""
    return {"problem": problem, "answer": answer, "solutions": list(solutions), "use": use, "fault": fault}


def problems_of(params: Params, train: list[dict[str, Any]], test: list[dict[str, Any]] | None = None) -> Problems:
    """As prepare holds them; without test rows nothing is held out."""

    def part(name: str, rows: list[dict[str, Any]]) -> Any:
        named = ({"source": name, "row": number, "kept": "{}", **row} for number, row in enumerate(rows))
        return kept_on_disk(Path(tempfile.mkdtemp(dir=".")) / name, lambda: named)

    return Problems(Table(part("train", train), part("test", test or [])), params.prepare)


def texts(problems: Problems, part: int = TRAIN) -> list[str]:
    return [problems.texts[row] for row in problems.rows(part)]


def out(problems: Problems) -> dict[str, int]:
    """Rows left out for each reason."""
    return {rule.reason: rule.rows_out for rule in problems.applied if rule.rows_out}


def traces_of(problems: Problems, golds: Golds | None = None) -> list[str]:
    traces = collected(problems, golds)
    return [row["completion"] for row in traces.rows()]


def collected(problems: Problems, golds: Golds | None = None) -> Traces:
    folder = Path(tempfile.mkdtemp(dir="."))
    traces = Traces(problems, golds, rules.ordered(problems, TRAIN), folder)
    traces.collect()
    return traces


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
    one, again, other = (equation_rows(params_with({**SMALL, "seed": seed})) for seed in (1, 1, 2))
    assert one == again
    assert [(r["problem"], r["answer"]) for r in one] == [(r["problem"], r["answer"]) for r in other]
    assert [r["solutions"] for r in one] != [r["solutions"] for r in other]
    assert {len(r["solutions"]) for r in one} == {3}


# Golds and traces


def test_gsm8ks_form_becomes_thoughts_and_answer(project: Path, params_with: ParamsWith) -> None:
    answer = (
        "Three trays hold 3*12=<<3*12=36>>36 rolls.\n"
        "Without the two that were eaten, 36-2=<<36-2=34>>34 are left.\n"
        "#### 34"
    )
    found = problems_of(params_with(GSM8K_FORM), [a("  How many rolls are left?\n", answer, answer)])
    assert (found.texts, found.golds) == (["How many rolls are left?"], ["34"])
    assert traces_of(found) == [
        "<think>\nThree trays hold 3*12=36 rolls.\n"
        "Without the two that were eaten, 36-2=34 are left.\n</think>\n"
        "<answer>\n34\n</answer>"
    ]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("Work.\n#### 1,200", "1,200"),
        ("Work.\n####7", "7"),
        ("Work.\n####   -7  \n", "-7"),
        ("Work costs $5.\n#### $5", "$5"),
    ],
)
def test_the_gold_is_group_1_of_answer_pattern(project: Path, params_with: ParamsWith, answer: str, gold: str) -> None:
    found = problems_of(params_with(GSM8K_FORM), [a("Q?", answer, answer)])
    assert found.golds == [gold]
    (trace,) = traces_of(found)
    assert trace.endswith(f"</think>\n<answer>\n{gold}\n</answer>")
    assert "####" not in trace


def test_rows_without_a_match_of_answer_pattern_are_counted(project: Path, params_with: ParamsWith) -> None:
    rows = [a("a", "It is 1."), a("b", "#### 1"), a("c", "It is ### 3")]
    found = problems_of(params_with(GSM8K_FORM), rows)
    found.apply(rules.without_a_match())
    assert texts(found) == ["b"]
    assert out(found) == {"without a match of prepare.answer_pattern": 2}


def test_a_group_that_takes_no_part_is_no_match(project: Path, params_with: ParamsWith) -> None:
    params = params_with({**ROWS, "prepare.answer_pattern": r"####(?: (\d+))?"})
    found = problems_of(params, [a("a", "It is ####"), a("b", "#### 1")])
    found.apply(rules.without_a_match())
    assert texts(found) == ["b"]


def test_without_patterns_columns_are_taken_as_they_are(project: Path, params_with: ParamsWith) -> None:
    found = problems_of(params_with(ROWS), [a("Q?", " 1/2 ", " Because #### of\nthis. ")])
    assert (found.texts, found.golds) == (["Q?"], ["1/2"])
    assert traces_of(found) == ["<think>\nBecause #### of\nthis.\n</think>\n<answer>\n1/2\n</answer>"]


# Rules


def test_golds_that_no_answer_meets_are_left_out_with_examples(
    project: Path, params_with: ParamsWith, verifier: Verifier
) -> None:
    words = ["see the proof above", "MCQ", "proof"]
    golds = ["34", "?", "x = 5", "\\frac{", "$7", "9 (apples)", "28\\%", *words, "Monday"]
    found = problems_of(params_with(ROWS), [a(gold, gold) for gold in golds])
    for rule in rules.gold_rules(Golds(verifier, Path("verdicts")), ["prose"]):
        found.apply(rule)
    assert texts(found) == ["34", "x = 5", "$7", "9 (apples)", "28\\%", "Monday"]
    unreadable, prose = "with a gold that the judge cannot read", "with a gold that is prose (prepare.drop_golds)"
    assert out(found) == {unreadable: 2, prose: 3}
    notes = {rule.reason: [example["note"] for example in rule.examples] for rule in found.applied}
    assert notes == {unreadable: ["?", "\\frac{"], prose: words}
    assert [(rule.rows_in, rule.rows_out) for rule in found.applied] == [(11, 2), (9, 3)]


def test_kinds_to_leave_out_are_a_choice(project: Path, params_with: ParamsWith, verifier: Verifier) -> None:
    golds = ["34", "\\sqrt{2}", "(B)", "yes", "1,2", "it is right as the theorem says", "5 cm", "20%", "x>3"]

    def kept(*kinds: Kind) -> list[str]:
        found = problems_of(params_with(ROWS), [a(gold, gold) for gold in golds])
        for rule in rules.gold_rules(Golds(verifier, Path("verdicts")), kinds):
            found.apply(rule)
        return texts(found)

    assert kept() == golds
    assert kept("choice", "words", "prose") == ["34", "\\sqrt{2}", "1,2", "5 cm", "20%", "x>3"]
    assert kept("formula", "several", "unit", "percent", "interval", "prose") == ["34", "(B)", "yes"]


def test_a_gold_is_judged_once_also_by_a_prepare_that_goes_on(project: Path, verifier: Verifier) -> None:
    first = Golds(verifier, Path("verdicts"))
    assert first.kinds(["34", "?"]) == {"34": "number", "?": None}
    assert first.agree([("1/2", "0.5"), ("1/2", "3")]) == [True, False]
    with Path("verdicts").open("a") as file:
        file.write('["cut o')  # killed as it wrote
    again = Golds(UNASKED, Path("verdicts"))
    assert again.kinds(["34", "?"]) == {"34": "number", "?": None}
    assert again.agree([("1/2", "0.5"), ("1/2", "3")]) == [True, False]
    assert Golds(verifier, Path("verdicts")).kinds(["x = 5"])["x = 5"] == "number"
    assert len(Path("verdicts").read_text().splitlines()) == 5


class Unasked(Verifier):
    def __init__(self) -> None:
        pass

    def readable(self, golds: Any) -> NoReturn:
        raise AssertionError(f"asked again: {golds}")

    def agreements(self, pairs: Any) -> Any:
        assert not pairs
        return []


UNASKED = Unasked()


def test_problems_are_equal_up_to_case_and_white_space() -> None:
    assert key_of("How  many\nrolls? ") == key_of("how many Rolls?")
    assert key_of("How many rolls?") != key_of("How many rolls")
    assert key_of("Solve: 3x - 5 = 10").hex() == hashlib.sha256(b"solve: 3x - 5 = 10").hexdigest()


def apply_duplicates(found: Problems, golds: Golds) -> None:
    found.apply(rules.conflicting_golds(golds))
    found.apply(rules.duplicates())


def test_the_first_of_equal_problems_stays(project: Path, params_with: ParamsWith, verifier: Verifier) -> None:
    found = problems_of(params_with(ROWS), [a("A b", "1"), a("c", "2"), a("a  B", "1.0"), a("C", "2"), a("d", "5")])
    apply_duplicates(found, Golds(verifier, Path("verdicts")))
    assert texts(found) == ["A b", "c", "d"]
    assert out(found) == {"duplicates": 2}
    assert found.into.tolist() == [-1, -1, 0, 1, -1]
    assert found.applied[-1].examples[0] == {
        "row": "train:2",
        "problem": "a  B",
        "into": "train:0",
        "into_problem": "A b",
    }


def test_of_several_golds_of_a_problem_that_of_most_stays(
    project: Path, params_with: ParamsWith, verifier: Verifier
) -> None:
    rows = [a("a", "99"), a("A", "15"), a("b", "1"), a("B", "2"), a("a ", "15.0"), a("c")]
    found = problems_of(params_with(ROWS), rows)
    apply_duplicates(found, Golds(verifier, Path("verdicts")))
    assert [(found.texts[row], found.golds[row]) for row in found.rows()] == [("A", "15"), ("c", "1")]
    assert out(found) == {"duplicates with another gold than most, or than each other": 3, "duplicates": 1}
    assert found.applied[0].examples[0]["note"] == "99; in all: 99 1 times, 15 2 times"


def test_equal_problems_with_one_gold_keep_all_their_traces(
    project: Path, params_with: ParamsWith, verifier: Verifier
) -> None:
    rows = [a("a b", "1", "x"), a("c", "1", "w"), a("A  b", "1", "y", "x"), a("A b", "2", "z")]
    found = problems_of(params_with(ROWS), rows)
    apply_duplicates(found, Golds(verifier, Path("verdicts")))
    assert [re.split("\n", text)[1] for text in traces_of(found)] == ["w", "x", "y"]


def test_a_problem_for_grpo_is_the_one_that_stays(project: Path, params_with: ParamsWith, verifier: Verifier) -> None:
    found = problems_of(
        params_with(ROWS), [a("a", "", "x", use="sft"), a("A", "1", use="grpo"), a("b", "", use="grpo")]
    )
    found.apply(rules.without_a_gold())
    apply_duplicates(found, Golds(verifier, Path("verdicts")))
    assert [(found.texts[row], found.golds[row]) for row in found.rows()] == [("A", "1")]
    assert out(found) == {"without a gold answer": 1, "duplicates": 1}


def test_training_problems_of_the_test_set_go(project: Path, params_with: ParamsWith) -> None:
    found = problems_of(params_with(ROWS), [a("a"), a("B  b"), a("c")], [a("b b"), a("d")])
    found.apply(rules.in_the_test_set())
    assert (texts(found), texts(found, TEST)) == (["a", "c"], ["b b", "d"])


def test_cap_keeps_the_same_problems_whatever_the_order(project: Path, params_with: ParamsWith) -> None:
    rows = [a(f"problem {number}") for number in range(20)]
    shuffled = random.Random(1).sample(rows, 20)

    def kept(rows: list[dict[str, Any]], limit: int | None) -> list[str]:
        found = problems_of(params_with(ROWS), rows)
        found.apply(rules.beyond(TRAIN, limit))
        assert sum(out(found).values()) == 20 - len(found.rows())
        return [found.texts[row] for row in rules.ordered(found, TRAIN)]

    five = kept(rows, 5)
    assert kept(shuffled, 5) == five
    assert len(five) == 5
    assert five != [row["problem"] for row in rows[:5]]  # the hash chooses, not the place in the file
    assert kept(rows, 6)[:5] == five  # more is the same and one more
    assert kept(shuffled, None) == kept(rows, 20) == kept(rows, 21)


def test_held_out_is_decided_by_the_text_alone() -> None:
    keys = [key_of(f"problem {number}") for number in range(2000)]
    chosen = [held_out(key, 0.2) for key in keys]
    # 400 expected; four standard deviations are 4 x sqrt(2000 x 0.2 x 0.8) = 72.
    assert sum(chosen) == pytest.approx(400, abs=72)
    # A greater share holds out the same problems and more.
    assert all(held_out(key, 0.3) for key, out in zip(keys, chosen, strict=True) if out)
    # sha256 of "abc" begins with ba7816bf, and 0xba7816bf / 2**32 = 0.7284.
    assert [held_out(key_of("abc"), share) for share in (0.72, 0.728, 0.729, 0.73)] == [False, False, True, True]


def test_texts_come_back_in_the_order_of_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.data.shuffle.BUFFER_CHARS", 40)
    shuffle, draw = Shuffle(tmp_path, 100, 5 * 2**26), random.Random(1)
    added = [(draw.randrange(100), number, f"text {number}") for number in range(1000)]
    for item in added:
        shuffle.add(*item)
    assert shuffle.number == 6
    assert list(shuffle.ordered()) == sorted(added, key=lambda item: item[0])
    assert list(tmp_path.iterdir()) == []


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
        for name in ("sft.jsonl", "train.jsonl", "test.jsonl", "fates.parquet", "card.md")
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
    assert all(other[name] == first[name] for name in ("train.jsonl", "test.jsonl", "fates.parquet"))


def test_every_row_that_is_left_out_is_counted(
    project: Path, params_with: ParamsWith, capsys: pytest.CaptureFixture[str]
) -> None:
    save(
        "data/source/train.jsonl",
        row("a?"),
        row("A? "),  # the first again
        row("b?", "It is 2."),  # without ####
        row("c?", "Who knows.\n#### ?"),  # a gold that cannot be read
        row("d?"),  # in the test set
        row("e?", "It is 5.\n#### 5"),
        row("f?"),
    )
    save("data/source/test.jsonl", row("D?"), row("g?", "Who knows.\n#### ?"), row("h?"))
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
    save("data/source/train.jsonl", *(row(f"question {number}?", f"Work.\n#### {number}") for number in range(40)))
    prepare.run(params_with({**GSM8K_FORM, "prepare.test_frac": 0.5}))
    train, test = lines("train.jsonl"), lines("test.jsonl")
    assert len(train) + len(test) == 40
    assert {row["problem"] for row in train}.isdisjoint(row["problem"] for row in test)
    assert all(held_out(key_of(row["problem"]), 0.5) for row in test)
    assert {row["answer"] for row in [*train, *test]} == {str(number) for number in range(40)}


def test_problems_with_long_solutions_alone_are_left_out_of_both_sets(project: Path, params_with: ParamsWith) -> None:
    long, short = f"{'So it is. ' * 9}\n#### 4", "It is.\n#### 4"
    rows = [row(f"question {number}?", long if number % 2 else short) for number in range(40)]
    save("data/source/train.jsonl", *rows)
    prepare.run(params_with({**GSM8K_FORM, "prepare.test_frac": 0.5, "prepare.max_solution_chars": len(short)}))
    kept = {line["problem"] for name in ("train.jsonl", "test.jsonl") for line in lines(name)}
    assert kept == {f"question {number}?" for number in range(0, 40, 2)}
    (rule,) = (rule for rule in require_complete(PREPARED, "prepare")["rules"] if rule["name"] == "long")
    assert rule["left_out"] == 20
    assert rule["examples"][0]["note"] == f"{len(long)} characters"


def test_the_caps_hold_and_the_order_of_the_file_does_not_matter(project: Path, params_with: ParamsWith) -> None:
    rows = [row(f"question {number}?") for number in range(40)]
    params = params_with({**GSM8K_FORM, "prepare.test_frac": 0.5, "prepare.max_train": 5, "prepare.max_test": 3})
    save("data/source/train.jsonl", *rows)
    prepare.run(params)
    first = contents(PREPARED)
    manifest = require_complete(PREPARED, "prepare")
    assert manifest["rows"] == {"sft": 5, "train": 5, "test": 3}
    assert sum(manifest["dropped"].values()) == 40 - 5 - 3
    save("data/source/train.jsonl", *reversed(rows))
    prepare.run(params)
    again = contents(PREPARED)
    # They name the source rows.
    assert {name for name in first if again[name] != first[name]} == {MANIFEST, "card.md", "fates.parquet"}


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
    save("data/source/train.jsonl", *train)
    save("data/source/test.jsonl", *test)
    with pytest.raises(InputError) as caught:
        prepare.run(params_with({**GSM8K_FORM, "prepare.dataset": "data/source", "prepare.test_split": "test"}))
    assert named in caught.value.got
    assert contents(PREPARED) == before
    assert list(PREPARED.parent.glob(".*")) == []


def test_an_empty_set_says_what_was_left_out(project: Path, params_with: ParamsWith) -> None:
    save("data/source/train.jsonl", row("a?", "It is 1."), row("b?", "It is 2."), row("c?", "Who knows.\n#### ?"))
    save("data/source/test.jsonl", row("d?"))
    with pytest.raises(InputError) as caught:
        prepare.run(params_with({**GSM8K_FORM, "prepare.test_split": "test"}))
    assert "no training problems" in caught.value.got
    assert "2 without a match of prepare.answer_pattern" in caught.value.got
    assert not PREPARED.exists()
