"""Rewards as tables: what a completion earns, worked out by hand."""

import pytest

from stages.rewards import REWARDS, scores, total
from stages.rewards.accuracy import MAX_ANSWER_CHARS, accuracy, answers_agree, parse_gold
from stages.rewards.form import format, tag_count

TUTORIAL_WEIGHTS = {"accuracy": 1.0, "format": 0.1, "tag_count": 0.05}
RIGHT = """<think>
Let me solve 2x + 3 = 7
Subtracting 3: 2x = 4
Dividing by 2: x = 2
Verification: 2(2) + 3 = 7 ✓
</think>
<answer>
x = 2
</answer>"""


@pytest.mark.parametrize(
    ("completion", "form", "tags"),
    [
        (RIGHT, 1.0, 1.0),
        ("<think>a</think><answer>5</answer>", 1.0, 1.0),  # all on one line
        ("\n  <think>a</think>\n\n<answer>5</answer>  \n", 1.0, 1.0),
        ("<think>a < b > c</think><answer>5</answer>", 1.0, 1.0),  # angle brackets that are no tags
        # Three quarters: one tag of four is not there, or there twice.
        ("a</think><answer>5</answer>", 0.0, 0.75),
        ("<think>a<answer>5</answer>", 0.0, 0.75),
        ("<think>a</think>5</answer>", 0.0, 0.75),
        ("<think>a</think><answer>5", 0.0, 0.75),  # cut off
        ("<think><think>a</think><answer>5</answer>", 0.0, 0.75),
        # A half.
        ("<answer>5</answer>", 0.0, 0.5),
        ("<think>a</think>5", 0.0, 0.5),
        ("<think>a</think><answer>5</answer><answer>6</answer>", 0.0, 0.5),
        ("<think>a</think><think>b</think><answer>5</answer>", 0.0, 0.5),
        ("<think>a <think>b</think> c</think><answer>5</answer>", 0.0, 0.5),  # nested
        # A quarter and nothing.
        ("<think>a", 0.0, 0.25),
        ("5", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("<think>a</think><answer>5</answer>" * 2, 0.0, 0.0),
        ("<THINK>a</THINK><ANSWER>5</ANSWER>", 0.0, 0.0),
        # All four tags once, yet not the form.
        ("<think>a</think><answer>5</answer> as shown", 0.0, 1.0),
        ("<think>a</think><answer>5</answer>\nas shown", 0.0, 1.0),  # open-r1's pattern accepts this one
        ("Well. <think>a</think><answer>5</answer>", 0.0, 1.0),
        ("<think>a</think> so <answer>5</answer>", 0.0, 1.0),
        ("<answer>5</answer><think>a</think>", 0.0, 1.0),
        ("<think>a<answer>5</answer></think>", 0.0, 1.0),  # the answer within the thoughts
        ("<think>a<answer></think>5</answer>", 0.0, 1.0),  # crossed
        ("<think></think><answer>5</answer>", 0.0, 1.0),
        ("<think> \n </think><answer>5</answer>", 0.0, 1.0),
        ("<think>a</think><answer></answer>", 0.0, 1.0),
        ("<think>a</think><answer> \n </answer>", 0.0, 1.0),
    ],
)
def test_form(completion: str, form: float, tags: float) -> None:
    assert (format(completion), tag_count(completion)) == (form, tags)


@pytest.mark.parametrize(
    ("completion", "gold", "score"),
    [
        (RIGHT, "x = 2", 1.0),
        (RIGHT, "2", 1.0),
        (RIGHT, "x = 7", 0.0),
        ("<answer>2</answer>", "x = 2", 1.0),  # form is another reward's business
        ("<think>x = 2</think>", "x = 2", 0.0),  # thought, not declared
        ("<think>x = 2</think><answer>x = 3</answer>", "x = 2", 0.0),
        ("<answer>x = 2", "x = 2", 0.0),
        ("<answer></answer>", "x = 2", 0.0),
        ("", "x = 2", 0.0),
        ("x = 2", "x = 2", 0.0),
        ("<answer>2</answer><answer>3</answer>", "x = 2", 0.0),  # the last one counts
        ("<answer>3</answer><answer>2</answer>", "x = 2", 1.0),
        ("<answer>Surely \\boxed{2}</answer>", "x = 2", 1.0),
        ("<answer>\\boxed{3} \\boxed{2}</answer>", "x = 2", 1.0),
        ("<answer>\\boxed{2} \\boxed{3}</answer>", "x = 2", 0.0),
        ("<answer>$2$</answer>", "x = 2", 1.0),
        ("<answer>two</answer>", "x = 2", 0.0),
        ("<answer>}}}{{{\\frac{</answer>", "x = 2", 0.0),  # no parser can be upset
        ("<answer>1/0</answer>", "x = 2", 0.0),
        ("<answer>\\left(\x00</answer>", "x = 2", 0.0),
    ],
)
def test_accuracy(completion: str, gold: str, score: float) -> None:
    assert accuracy(completion, gold) == score


@pytest.mark.parametrize(
    ("gold", "answer", "agree"),
    [
        ("x = 5", "5", True),
        ("x = 5", "x=5", True),
        ("x = 5", "10/2", True),
        ("x = 5", "\\frac{10}{2}", True),
        ("x = 5", "5.0", True),
        ("x = 5", "6", False),
        ("x = 5", "55", False),
        ("x = 5", "x = 5.1", False),
        ("5", "x = 5", True),
        ("x = 5", "y = 5", False),
        # Two answers are no answer, in whatever order and notation.
        ("x = 5", "x = 5, x = 6", False),
        ("x = 5", "x = 6, x = 5", False),
        ("5", "5, 6", False),
        ("5", "5 or 6", False),
        ("5", "5 \\text{ or } 6", False),
        ("5", "\\{5, 6\\}", False),
        ("5", "4}\\boxed{5}\\boxed{6", False),
        ("5", "4 < x < 6", False),
        ("-18", "18", False),
        ("18", "-18", False),
        ("-18", "-18", True),
        ("x = -18", "-18", True),
        ("70000", "70,000", True),
        ("70,000", "70000", True),
        ("70000", "$70,000", True),
        ("$70,000", "70000", True),
        ("70000", "70", False),
        ("70000", "7,000", False),
        ("1/2", "0.5", True),
        ("1/2", "2/4", True),
        ("1/3", "0.33", False),
        # math-verify is not symmetric: a gold in words of x may be answered with an interval, not the other way round.
        ("x > 5", "(5, \\infty)", True),
        ("(5, \\infty)", "x > 5", False),
    ],
)
def test_answers_agree(gold: str, answer: str, agree: bool) -> None:
    assert answers_agree(gold, answer) is agree


def test_an_answer_that_is_too_long_is_wrong() -> None:
    # "5 + 0 + 0 ..." equals 5; 1 + 4 x 49 = 197 characters are read, 1 + 4 x 50 = 201 are not.
    within, beyond = "5" + " + 0" * 49, "5" + " + 0" * 50
    assert (len(within), len(beyond), MAX_ANSWER_CHARS) == (197, 201, 200)
    assert accuracy(f"<answer>{within}</answer>", "5") == 1.0
    assert accuracy(f"<answer>{beyond}</answer>", "5") == 0.0


@pytest.mark.parametrize("gold", ["", "?", "$", "..."])
def test_a_gold_that_cannot_be_read_is_no_score(gold: str) -> None:
    assert parse_gold(gold) == ()
    with pytest.raises(ValueError, match="cannot read the gold"):
        accuracy("<answer>5</answer>", gold)


def test_every_reward_by_name() -> None:
    assert list(REWARDS) == ["accuracy", "format", "tag_count"]
    assert scores(RIGHT, "x = 2") == {"accuracy": 1.0, "format": 1.0, "tag_count": 1.0}
    # Wrong, and cut off before </answer>: nothing declared, three tags of four.
    assert scores(RIGHT.removesuffix("</answer>"), "x = 2") == {"accuracy": 0.0, "format": 0.0, "tag_count": 0.75}


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ((1.0, 1.0, 1.0), 1.15),  # 1.0 x 1 + 0.1 x 1 + 0.05 x 1, the tutorial's right answer
        ((0.0, 1.0, 0.5), 0.125),  # 1.0 x 0 + 0.1 x 1 + 0.05 x 0.5, the tutorial's wrong answer
        ((0.0, 1.0, 1.0), 0.15),
        ((1.0, 0.0, 0.75), 1.0375),
        ((0.0, 0.0, 0.0), 0.0),
    ],
)
def test_total_is_the_tutorials_weighted_sum(score: tuple[float, float, float], expected: float) -> None:
    named = dict(zip(("accuracy", "format", "tag_count"), score, strict=True))
    assert total(named, TUTORIAL_WEIGHTS) == pytest.approx(expected, abs=1e-12)


def test_the_tutorials_completion_earns_the_tutorials_total() -> None:
    assert total(scores(RIGHT, "x = 2"), TUTORIAL_WEIGHTS) == pytest.approx(1.15, abs=1e-12)
    # The same in good form with a wrong answer: 0 + 0.1 + 0.05.
    assert total(scores(RIGHT, "x = 3"), TUTORIAL_WEIGHTS) == pytest.approx(0.15, abs=1e-12)


def test_a_weight_may_be_zero_or_negative() -> None:
    weights = {"accuracy": 2.0, "format": 0.0, "tag_count": -1.0}
    # 2 x 1 + 0 x 1 - 1 x 0.5
    assert total({"accuracy": 1.0, "format": 1.0, "tag_count": 0.5}, weights) == 1.5
