"""Accuracy and the total, worked out by hand; a batch scored as params.yaml says; rewards of one's own."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError
from posttrain.params import schema
from posttrain.processes.pool import Pool
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
        ("<answer>\\boxed{3} \\boxed{2}</answer>", "x = 2", 0.0),
        ("<answer>\\boxed{2} \\boxed{3}</answer>", "x = 2", 0.0),
        ("<answer>$2$</answer>", "x = 2", 1.0),
        ("<answer>two</answer>", "x = 2", 1.0),
        ("<answer>too</answer>", "x = 2", 0.0),
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
        ("(5, \\infty)", "x > 5", True),
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
import asyncio
import os
import sys
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


def leaves(completion):
    sys.exit(0)


def ends(completion):
    os._exit(0)


def interrupts(completion):
    raise KeyboardInterrupt


def huge(completion):
    return 10**400


class Sprung:
    def __reduce__(self):
        return open, ("sprung", "w")


def springs(completion):
    return Sprung()


class SprungError(Exception):
    def __reduce__(self):
        return open, ("sprung", "w")


def raises_a_trap(completion):
    raise SprungError("no")


# TRL's and open-r1's forms


def format_reward(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if "<think>" in content else 0.0 for content in contents]


def accuracy_reward(completions: list[list[dict[str, str]]], solution: list[str], **kwargs) -> list[float | None]:
    contents = [completion[0]["content"] for completion in completions]
    return [float(content == gold) if gold else None for content, gold in zip(contents, solution)]


def by_prompt(prompts, completions, bonus=0.0):
    return [len(prompt[-1]["content"]) + bonus for prompt in prompts]


def texts(completions: list[str], **kwargs):
    return [len(text) for text in completions]


async def judge(prompts, completions, answer, **kwargs):
    async def one(completion, gold):
        await asyncio.sleep(0.2)
        return float(completion[0]["content"] == gold)

    return await asyncio.gather(*map(one, completions, answer))


async def slow_thought(completion):
    await asyncio.sleep(0.01)
    return len(completion.text)


def everything(**kwargs):
    return [1.0]


def shaped(completions, trainer_state, **kwargs):
    return [trainer_state.global_step] * len(completions)


def logs(completions, log_metric=None, completion_ids=None, **kwargs):
    return [1.0 if log_metric is None and completion_ids is None else 0.0] * len(completions)


def numbers(completions, **kwargs):
    import array

    return array.array("d", [0.5] * len(completions))


def counted(completion):
    with open("calls", "a") as file:
        file.write("x")
    while True:
        pass
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
        ("lazy", "more than 0.2 s asleep"),
        ("leaves", "SystemExit: 0, on problem 17"),
        ("ends", "its process ended with exit code 0, on problem 17"),
        ("interrupts", "KeyboardInterrupt: , on problem 17"),
        ("huge", "OverflowError"),
        ("springs", "it returned <own.Sprung object"),
        ("raises_a_trap", "SprungError: no"),
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
    assert f"rewards/own.py:{function} (rewards.mine)" in str(error.value)
    assert not Path("sprung").exists()  # what it returned or raised was not unpickled here


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
        ("rewards/own.py:shaped", {}, "it asks for `trainer_state`, which only a trainer has"),
        ("rewards/own.py:by_prompt", {"malus": 1}, "unexpected keyword argument 'malus'"),
        ("rewards/own.py:everything", {}, "first parameter `kwargs`"),
    ],
)
def test_a_reward_that_cannot_be_used_is_refused_before_training(
    own: Callable[..., Scoring], function: str, parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as error:
        own(function, **parameters)
    assert says in str(error.value)


# TRL's form


@pytest.mark.parametrize(
    ("function", "parameters", "scores"),
    [
        ("format_reward", {}, [0.0, 1.0, 0.0]),
        ("accuracy_reward", {}, [1.0, 0.0, None]),
        ("by_prompt", {}, [5.0, 5.0, 5.0]),
        ("by_prompt", {"bonus": 0.5}, [5.5, 5.5, 5.5]),
        ("texts", {}, [1, 7, 1]),
        ("judge", {}, [1.0, 0.0, 0.0]),
        ("slow_thought", {}, [1, 7, 1]),
        ("logs", {}, [1.0, 1.0, 1.0]),
        ("numbers", {}, [0.5, 0.5, 0.5]),
    ],
)
def test_trls_form_and_coroutines_work_as_they_are(
    own: Callable[..., Scoring], function: str, parameters: dict[str, Any], scores: list[float | None]
) -> None:
    scoring = own(f"rewards/own.py:{function}", **{"timeout_s": 2.0, **parameters})
    texts, solutions = ["5", "<think>", "6"], ["5", "5", ""]
    completions = [
        Completion(text, problem="What?", row={"id": "1", "problem": "What?", "answer": "5", "solution": solution})
        for text, solution in zip(texts, solutions, strict=True)
    ]
    assert scoring.score("mine", completions, 3) == scores
    if function != "slow_thought":
        assert scoring.takes_group("mine")


def test_a_groups_requests_run_at_once_and_groups_beside_each_other(own: Callable[..., Scoring]) -> None:
    scoring = own("rewards/own.py:judge", timeout_s=3.0)
    completions = [Completion("5", problem="?", row={"answer": "5"})] * 16
    scoring.score("mine", completions, 8)
    began = time.monotonic()
    assert scoring.score("mine", completions, 8) == [1.0] * 16
    assert time.monotonic() - began < 16 * 0.2  # what they take one after another


def test_a_column_that_the_rows_lack_is_named(own: Callable[..., Scoring]) -> None:
    scoring = own("rewards/own.py:accuracy_reward", timeout_s=2.0)
    with pytest.raises(InputError) as error:
        scoring.score("mine", [Completion("5", problem="?", row={"id": "17", "answer": "5"})], 1)
    assert "it asks for `solution`, which is neither a column (answer, id)" in str(error.value)
    assert "prepare.columns.keep" in str(error.value)
    assert "on problem 17" in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# What one's own file may do, and when it is noticed


def test_a_hang_is_told_at_the_first_time_out(own: Callable[..., Scoring]) -> None:
    scoring = own("rewards/own.py:counted", timeout_s=0.5)
    with pytest.raises(InputError, match=r"more than 0\.5 s of CPU, on problem 1"):
        scoring.dry_run([{"id": f"1{number}", "problem": "?", "answer": "5"} for number in range(32)])
    assert Path("calls").read_text() == "x"  # one worker, one call


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("while True: pass", "more than 0.5 s of CPU"),
        ("import time; time.sleep(60)", "more than 0.5 s asleep"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "its process ended with exit code 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
    ],
)
@pytest.mark.parametrize("place", ["file", "package"])
def test_what_a_file_does_as_it_is_loaded_is_told_and_done_in_a_worker(
    own: Callable[..., Scoring], place: str, source: str, says: str
) -> None:
    Path("rewards/nested").mkdir()
    Path("rewards/nested/mine.py").write_text("def fine(completion):\n    return 1.0\n")
    if place == "file":
        Path("rewards/nested/mine.py").write_text(source)
    else:
        Path("rewards/nested/__init__.py").write_text(source)
    function = "rewards/nested/mine.py:fine" if place == "file" else "rewards.nested.mine:fine"
    began = time.monotonic()
    with pytest.raises(InputError) as error:
        own(function, timeout_s=0.5)
    assert time.monotonic() - began < 15  # a worker starts, and 0.5 s; 10 times as long for a machine with others on it
    assert says in str(error.value)
    assert function in str(error.value)


def test_a_module_is_found_without_its_packages(own: Callable[..., Scoring]) -> None:
    Path("rewards/nested").mkdir()
    for folder in ("rewards", "rewards/nested"):
        Path(folder, "__init__.py").write_text("import os\nPID = os.getpid()\n")
    Path("rewards/nested/mine.py").write_text(
        "import rewards, rewards.nested\n\ndef fine(completion):\n    return rewards.PID + rewards.nested.PID\n"
    )
    scoring = own("rewards.nested.mine:fine", timeout_s=2.0)
    (found,) = scoring.score("mine", [Completion("")], 1)
    assert found not in (None, 2 * os.getpid())
    assert not {"rewards", "rewards.nested", "rewards.nested.mine"} & set(sys.modules)
    assert scoring.custom["mine"].file == Path("rewards/nested/mine.py").resolve()


def test_a_namespace_is_searched_as_well(own: Callable[..., Scoring]) -> None:
    Path("rewards/far/away").mkdir(parents=True)
    Path("rewards/__init__.py").touch()
    Path("rewards/far/away/mine.py").write_text("def fine(completion):\n    return 1.0\n")
    assert own("rewards.far.away.mine:fine", timeout_s=2.0).score("mine", [Completion("")], 1) == [1.0]


def test_scores_are_the_same_for_any_number_of_workers_and_after_a_kill(own: Callable[..., Scoring]) -> None:
    scoring = own("rewards/own.py:brevity", max_words=3, timeout_s=5.0)
    completions = [Completion("a " * (number % 7)) for number in range(60)]
    alone = scoring.score("mine", completions, 1)
    with Pool(3) as pool:
        scoring.custom["mine"].pool = pool
        for worker in scoring.pool._team:
            worker.process.kill()
        assert scoring.score("mine", completions, 1) == alone
