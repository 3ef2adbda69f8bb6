"""Accuracy and the total, worked out by hand; a batch scored as params.yaml says; rewards of one's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError
from posttrain.params import schema
from posttrain.prompts import completion_text
from posttrain.rewards.accuracy import accuracy
from posttrain.rewards.scoring import BUILT_IN, Completion, Scoring, Verifier, judge, total
from tests.tutorial import RIGHT

ParamsWith = Callable[[dict[str, Any]], schema.Params]

TUTORIAL_WEIGHTS = {"accuracy": 1.0, "format": 0.1, "tag_count": 0.05}


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
        ("<answer>2</answer><answer>3</answer>", "x = 2", 0.0),  # a second try
        ("<answer>3</answer><answer>2</answer>", "x = 2", 0.0),
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
def test_accuracy(verifier: Verifier, completion: str, gold: str, score: float) -> None:
    assert judge([completion], [gold], verifier)[0]["accuracy"] == score


@pytest.mark.parametrize(("verdict", "score"), [(True, 1.0), (False, 0.0), (None, None)])
def test_no_verdict_is_no_score(verdict: bool | None, score: float | None) -> None:
    assert accuracy(Completion("<answer>5</answer>", "5", correct=verdict)) == score


@pytest.mark.parametrize(
    ("gold", "answer", "agree"),
    [
        ("x = 5", "5", True),
        ("x = 5", "x=5", True),
        ("x = 5", "10/2", False),  # still to be calculated
        ("x = 5", "\\frac{10}{2}", False),
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
def test_answers_agree(verifier: Verifier, gold: str, answer: str, agree: bool) -> None:
    assert verifier.verdicts([(gold, answer)]) == [agree]


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


def test_a_weight_may_be_zero_or_negative() -> None:
    weights = {"accuracy": 2.0, "format": 0.0, "tag_count": -1.0}
    # 2 x 1 + 0 x 1 - 1 x 0.5
    assert total({"accuracy": 1.0, "format": 1.0, "tag_count": 0.5}, weights) == 1.5


def test_a_missing_score_is_no_total() -> None:
    assert total({"accuracy": None, "format": 1.0, "tag_count": 1.0}, TUTORIAL_WEIGHTS) is None


# ---------------------------------------------------------------------------------------------------------------------
# A batch


@pytest.fixture(scope="module")
def scoring() -> Iterator[Scoring]:
    rewards = schema.Rewards.model_validate(
        {
            "accuracy": {"weight": 1.0},
            "format": {"weight": 0.1},
            "tag_count": {"weight": 0.05},
            "length": {"weight": 0.0},
            "repetition_penalty": {"weight": 0.5, "ngram_size": 1, "max_penalty": -1.0, "language": "en"},
        }
    )
    with Scoring(rewards, schema.Verifier(timeout_s=5.0, max_timeout_frac=0.1), workers=1) as scoring:
        yield scoring


def batch(scoring: Scoring, texts: list[str], gold: str, tokens: list[int]) -> list[Completion]:
    return scoring.completions(texts, [{"id": "1", "problem": "?", "answer": gold}] * len(texts), tokens)


def test_the_tutorials_completion_earns_the_tutorials_total(scoring: Scoring) -> None:
    found = scoring.scores(batch(scoring, [RIGHT, RIGHT], "x = 2", [1, 1]), 2)
    assert total({name: found[name][0] for name in TUTORIAL_WEIGHTS}, TUTORIAL_WEIGHTS) == pytest.approx(
        1.15, abs=1e-12
    )
    # The same in good form with a wrong answer: 0 + 0.1 + 0.05.
    found = scoring.scores(batch(scoring, [RIGHT], "x = 3", [1]), 1)
    assert total({name: found[name][0] for name in TUTORIAL_WEIGHTS}, TUTORIAL_WEIGHTS) == pytest.approx(
        0.15, abs=1e-12
    )


def test_each_completion_meets_its_own_gold_and_a_group_its_own_lengths(scoring: Scoring) -> None:
    right, wrong = completion_text("so", "x = 2"), completion_text("so", "x = 7")
    rows = [{"id": str(gold), "problem": "?", "answer": f"x = {gold}"} for gold in (2, 2, 7, 7)]
    completions = scoring.completions([right, wrong, right, wrong], rows, [10, 20, 30, 50])
    found = scoring.scores(completions, 2)
    assert found["accuracy"] == [1.0, 0.0, 0.0, 1.0]
    # 0.5 - (length - shortest) / (longest - shortest) is +0.5 and -0.5 in each group; wrong answers gain nothing
    assert found["length"] == [0.5, -0.5, 0.0, -0.5]
    assert list(found) == ["accuracy", "format", "tag_count", "length", "repetition_penalty"]


def test_every_reward_of_the_schema_is_a_function_and_every_function_a_reward() -> None:
    assert set(schema.Rewards.model_fields) == set(BUILT_IN)


def test_parameters_reach_their_reward(scoring: Scoring) -> None:
    # 8 words, of which 5 differ: (1 - 5/8) x -1
    assert scoring.score("repetition_penalty", [Completion("a b a b c d e a")], 1) == [-0.375]


def test_the_dry_run_pays_the_gold_and_not_the_empty_completion(scoring: Scoring) -> None:
    found = scoring.dry_run(
        [{"id": "1", "problem": "?", "answer": "5"}, {"id": "2", "problem": "?", "answer": "x > 3"}]
    )
    assert found["accuracy"] == ([1.0, 1.0], [0.0, 0.0])
    assert found["format"] == ([1.0, 1.0], [0.0, 0.0])


def test_the_dry_run_names_a_gold_that_nobody_can_read(scoring: Scoring) -> None:
    with pytest.raises(InputError, match="cannot read the gold answer"):
        scoring.dry_run([{"id": "1", "problem": "?", "answer": "???"}])


# ---------------------------------------------------------------------------------------------------------------------
# One's own

OWN = """
import time

from posttrain.rewards import Completion


def brevity(completion: Completion, max_words: int) -> float:
    return float(len(completion.text.split()) <= max_words)


def shortest(group):
    return [1.0 if c.tokens == min(other.tokens for other in group) else None for c in group]


def breaks(completion):
    return 1 / (len(completion.text) - 3)


def text(completion):
    return "1.0"


def nan(completion):
    return float("nan")


def too_few(group):
    return [1.0]


def endless(completion):
    while True:
        pass


def lazy(completion):
    time.sleep(60)


def odd(sample):
    return 1.0
"""


@pytest.fixture
def own(project: Path) -> Iterator[Callable[..., Scoring]]:
    """Scoring with one reward from rewards/own.py."""
    (project / "rewards").mkdir()
    (project / "rewards" / "own.py").write_text(OWN)
    (project / "elsewhere.py").write_text(OWN)
    (project / "dvc.yaml").write_text("stages: {grpo: {deps: [rewards, posttrain/rewards]}}")
    made: list[Scoring] = []

    def build(function: str, **parameters: Any) -> Scoring:
        reward = {"weight": 1.0, "function": function, "timeout_s": 0.2, **parameters}
        made.append(Scoring(schema.Rewards.model_validate({"mine": reward}), VERIFIER, workers=1))
        return made[-1]

    yield build
    for scoring in made:
        scoring.close()


VERIFIER = schema.Verifier(timeout_s=5.0, max_timeout_frac=0.1)


def test_your_own_reward_of_a_completion(own: Callable[..., Scoring], project: Path) -> None:
    scoring = own("rewards/own.py:brevity", max_words=2)
    assert scoring.score("mine", [Completion("a b"), Completion("a b c")], 1) == [1.0, 0.0]
    assert scoring.sources()["mine"]["function"] == "rewards/own.py:brevity"
    assert len(scoring.sources()["mine"]["sha256"]) == 64
    assert [path.name for path in (project / "rewards").iterdir()] == ["own.py"]  # no __pycache__ for DVC to see


def test_your_own_reward_of_a_group(own: Callable[..., Scoring]) -> None:
    scoring = own("rewards/own.py:shortest")
    group = [Completion("a", tokens=5), Completion("b", tokens=3), Completion("c", tokens=9), Completion("d", tokens=9)]
    assert scoring.score("mine", group, 2) == [None, 1.0, 1.0, 1.0]


def test_your_own_reward_of_an_installed_module(own: Callable[..., Scoring]) -> None:
    # Any function that takes a `completion` will do: this one is ours.
    assert own("posttrain.rewards.form:tag_count").score("mine", [Completion("<think>")], 1) == [0.25]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("breaks", "ZeroDivisionError: division by zero, on problem 17 'What?', completion 'abc'"),
        ("text", "it returned '1.0'"),
        ("nan", "it returned nan"),
        ("endless", "more than 0.2 s of CPU"),
        ("lazy", "more than 2 s"),
        ("too_few", "it returned [1.0] for a group of 2"),
    ],
)
def test_a_failure_of_your_own_reward_names_the_row_and_stops(
    own: Callable[..., Scoring], function: str, says: str
) -> None:
    scoring = own(f"rewards/own.py:{function}")
    completions = [
        Completion("abc", problem="What?", row={"id": "17"}),
        Completion("ab", problem="?", row={"id": "18"}),
    ]
    with pytest.raises(InputError) as error:
        scoring.score("mine", completions, 2)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("function", "parameters", "says"),
    [
        ("rewards/own.py:nothing", {}, "has no attribute 'nothing'"),
        ("rewards/none.py:brevity", {}, "no such file or module"),
        ("no.such.module:brevity", {}, "no such file or module"),
        ("rewards/own.py:brevity", {}, "missing a required argument: 'max_words'"),
        ("rewards/own.py:brevity", {"max_words": 3, "min_words": 1}, "unexpected keyword argument 'min_words'"),
        ("rewards/own.py:odd", {}, "first parameter `sample`"),
        ("elsewhere.py:brevity", {"max_words": 3}, "which the grpo stage does not depend on"),
    ],
)
def test_a_reward_that_cannot_be_used_is_refused_before_training(
    own: Callable[..., Scoring], function: str, parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as error:
        own(function, **parameters)
    assert says in str(error.value)
