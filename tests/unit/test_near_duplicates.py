"""Near-duplicates: the kinds of copies, templates, and what must not depend on anything."""

import random
import subprocess
import sys
from itertools import combinations

import pytest

from benchmarks.planted import COPIES, other_numbers, problem, words_replaced
from posttrain.data.equations import equations
from posttrain.data.near_duplicates import Found, near_duplicates
from posttrain.data.shingles import Texts, Vocabulary, plain, tokens
from posttrain.params.schema import Equations, Teacher

JOSIE = (
    "Josie received $50 as a gift. She plans to buy two cassette tapes that cost $9 each and a headphone set that "
    "costs $25. How much money will she have left?"
)
TRAIN = "A train travels 270 miles in 3 hours. At the same rate, how many additional hours for an additional 180 miles?"


def found(texts: list[str], similarity: float = 0.5) -> Found:
    return near_duplicates(Texts(texts), similarity)


def one(first: str, second: str) -> bool:
    groups = found([first, second]).groups
    return groups[0] == groups[1]


def seen(text: str) -> list[str]:
    return [word for word in map(plain, tokens(text)) if word]


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_every_kind_are_one_with_their_original_and_nothing_else_is(kind: str) -> None:
    rng = random.Random(kind)
    originals = [problem(rng) for _ in range(1000)]
    copies = [COPIES[kind](text, rng) for text in originals[:200]]
    groups = found(originals + copies).groups
    assert sum(groups[1000 + i] == i for i in range(200)) >= 190
    assert groups[:1000] == list(range(1000))


def test_other_numbers_are_a_template_and_no_duplicate() -> None:
    other = TRAIN.replace("270", "360").replace("180", "240")
    both = found([TRAIN, other])
    assert both.groups == [0, 1]
    assert [(pair.first, pair.second) for pair in both.templates] == [(0, 1)]
    assert both.pairs == []
    swapped = TRAIN.replace("270", "x").replace("180", "270").replace("x", "180")
    assert not one(TRAIN, swapped)


def test_a_problem_of_gsm8k_with_another_name_is_one() -> None:
    assert one(JOSIE, JOSIE.replace("Josie", "Amanda"))
    assert not one(JOSIE, JOSIE.replace("two", "three"))


def test_equations_of_the_built_in_source_are_all_different() -> None:
    bounds = Equations(
        max_coefficient=5,
        max_solution=5,
        max_constant=5,
        traces_per_problem=1,
        teacher=Teacher(operation_slip_frac=0),
    )
    texts = [equation.problem for equation in equations(bounds)]
    assert found(texts).groups == list(range(len(texts)))
    assert found(["Solve: 3x + 5 = 10", "Solve: 3x - 5 = 10", "solve 3x − 5 = 10"]).groups == [0, 1, 1]
    assert not one("Expand 2(x + 3)", "Expand 2x + 3")


def test_short_problems_are_one_only_as_a_whole() -> None:
    assert one("What is 5 plus 10?", "Problem 3. what is 5 plus 10")
    assert not one("What is the capital of France?", "What is the capital of Spain?")
    assert not one("Compute the derivative of sin(x)", "Compute the derivative of cos(x)")


def test_groups_and_pairs_do_not_depend_on_the_order_of_the_file() -> None:
    rng = random.Random(3)
    texts = [problem(rng) for _ in range(400)]
    texts += [words_replaced(text, rng) for text in texts[:100]] + texts[:20]
    names = list(range(len(texts)))
    rng.shuffle(names)

    def partition(groups: list[int], which: list[int]) -> set[frozenset[int]]:
        members: dict[int, set[int]] = {}
        for place, group in enumerate(groups):
            members.setdefault(group, set()).add(which[place])
        return set(map(frozenset, members.values()))

    straight, shuffled = found(texts), found([texts[name] for name in names])
    assert partition(straight.groups, list(range(len(texts)))) == partition(shuffled.groups, names)
    assert len(straight.pairs) == len(shuffled.pairs)
    assert len(straight.templates) == len(shuffled.templates)


def test_a_pair_is_found_whatever_else_is_in_the_file() -> None:
    """An exact join, compared with every pair of a small file by the definition."""
    rng = random.Random(5)
    common = ["so", "we", "do", "it", "or", "by", "if"]
    texts = [f"Word {' '.join(rng.choices(common, k=9))} end." for _ in range(150)]

    def grams(text: str) -> set[tuple[str, ...]]:
        words = seen(text)
        return set(zip(words, words[1:], words[2:], strict=False))

    sets = list(map(grams, texts))
    expected = {
        (i, j) for i, j in combinations(range(150), 2) if len(sets[i] & sets[j]) >= 0.5 * len(sets[i] | sets[j])
    }
    pairs = {(pair.first, pair.second) for pair in found(texts).pairs}
    assert expected
    assert expected <= pairs | {(i, j) for i, j in expected if texts[i] == texts[j]}


def test_chains_make_one_group() -> None:
    words = [f"word{chr(97 + i)}" for i in range(26)]
    first, second, third = (" ".join(words[i : i + 16]) for i in (0, 4, 8))
    assert not one(first, third)
    assert found([first, second, third]).groups == [0, 0, 0]


def test_empty_texts_symbols_surrogates_and_other_scripts() -> None:
    assert found([]).groups == []
    assert found(["", "  ", "?!"]).groups == [0, 0, 0]
    chinese = "小明有三个苹果，小红给了他五个苹果。" * 3
    assert one(chinese, chinese.replace("，", " "))
    assert one(
        "Trouvé: ２ + x² = ½ pour tous les réels x, n'est-ce pas vrai?",
        "trouvé 2 + x2 = 1/2 pour tous les réels x n’est ce pas vrai",
    )
    assert found(["a \ud800 b", "c \ud800 d"]).groups == [0, 1]
    assert found(["word " * 20, "word " * 30]).groups == [0, 0]


def test_a_problem_of_five_thousand_words() -> None:
    rng = random.Random(7)
    long = " ".join(problem(rng) for _ in range(100))
    assert len(tokens(long)) > 4000
    assert one(long, words_replaced(long, rng))
    assert not one(long, other_numbers(long, rng))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"Find $\left( \dfrac{1}{2} x\right)$.", ["find", "(", "1", "/", "2", "x", ")"]),
        (r"\(3 \times 4\,\) and 3 · 4", ["3", "*", "4", "and", "3", "*", "4"]),
        ("1,000 apples cost $2.50 at 5%", ["1000", "apples", "cost", "2.5", "at", "5", "percent"]),
        (
            "a well-known one and/or two - or x - y",
            ["a", "well", "known", "one", "and", "or", "2", "or", "x", "-", "y"],
        ),
        ("Question 4: Let's go. Please reason step by step.", ["lets", "go"]),
        ("Solve the following problem: 7. Twelve men", ["12", "men"]),
        ("Solve: 3x - 5 = 10", ["solve", "3", "x", "-", "5", "=", "10"]),
        (r"$n! \leq 5!$", ["n", "≤", "5", "!"]),
    ],
)
def test_what_is_compared(text: str, words: list[str]) -> None:
    assert seen(text) == words


def test_hashes_are_the_same_on_every_machine_and_in_every_process() -> None:
    script = (
        "from posttrain.data.shingles import Texts; t = Texts(['Tom has 3 apples and gives one of them to Ann.'] * 2);"
        "print(t.wholes()[0], *t.shingles('names').hashes[:2])"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert made == {"6426720764582718067 11232970739224427522 8466974934891738689\n"}


def test_a_vocabulary_can_be_shared_and_changes_nothing() -> None:
    shared = Vocabulary()
    Texts(["other words before these"], shared)
    assert Texts([JOSIE], shared).wholes()[0] == Texts([JOSIE]).wholes()[0]
