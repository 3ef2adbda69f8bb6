"""Contamination: test problems among the training problems, whatever was done to them."""

import random

import pytest

from benchmarks.planted import INSIDE, VARIANTS, other_numbers, problem
from posttrain.data.contamination import Contamination, contamination
from posttrain.data.equations import equations
from posttrain.data.shingles import Texts, Vocabulary, tokens
from posttrain.params.schema import Equations, Teacher

TOM = "Tom has 3 apples and buys 4 more apples at the market. How many apples does Tom have now?"


def between(train: list[str], test: list[str]) -> Contamination:
    vocabulary = Vocabulary()
    return contamination(Texts(train, vocabulary), Texts(test, vocabulary), 0.5)


def overlapping(train: list[str], test: list[str]) -> list[tuple[int, int]]:
    return [(overlap.train, overlap.test) for overlap in between(train, test).overlaps]


@pytest.mark.parametrize("kind", INSIDE)
def test_copies_of_every_kind_are_found_and_nothing_else_is(kind: str) -> None:
    rng = random.Random(kind)
    test, train = ([problem(rng) for _ in range(count)] for count in (300, 1000))
    train += [INSIDE[kind](text, rng) for text in test[:200]]
    found = {overlap.train for overlap in between(train, test).overlaps}
    assert len(found & set(range(1000, 1200))) >= 190
    assert not found & set(range(1000))


def test_other_numbers_are_listed_as_a_template_and_not_as_an_overlap() -> None:
    rng = random.Random(1)
    test = [text for text in (problem(rng) for _ in range(200)) if any(character.isdigit() for character in text)]
    found = between([other_numbers(text, rng) for text in test], test)
    assert found.overlaps == []
    assert {overlap.test for overlap in found.templates} == set(range(len(test)))


def test_pairs_of_one_template_of_gsm8k_stay() -> None:
    form = "{} bought {} snowflake stamps and {} more truck stamps than those. How many stamps did {} buy in all?"
    train, test = form.format("Bella", 11, 9, "Bella"), form.format("Max", 16, 3, "Max")
    found = between([train], [test])
    assert found.overlaps == []
    assert [(overlap.train, overlap.test) for overlap in found.templates] == [(0, 0)]


def test_a_paraphrase_with_the_same_numbers() -> None:
    train = (
        "Bobbie has 3 times as many crayons as Billie. If Billie has 18 crayons and 2 pens, how many does Lizzie have?"
    )
    test = (
        "Tim has 3 times the number of crayons that Ed owns. If Ed has 18 crayons and 2 pens, how many does Sarah have?"
    )
    assert overlapping([train], [test]) == [(0, 0)]
    assert overlapping([train.replace("18", "20")], [test]) == []


@pytest.mark.parametrize(
    ("train", "holds"),
    [
        ("Solve: 3x - 5 = 10", True),
        ("7. solve 3x − 5 = 10 please", True),
        ("Solve the following problem. Solve: $3x-5=10$.", True),
        ("Solve: 13x - 5 = 10", False),
        ("Solve: 3x + 5 = 10", False),
        ("Solve: 3x - 5 = 100", False),
        ("Solve: 3x - 5 = 10 + y", False),
        ("Solve: 3y - 5 = 10", False),
    ],
)
def test_a_short_problem_counts_as_a_whole(train: str, holds: bool) -> None:
    assert overlapping(["", train], ["Solve: 3x - 5 = 10"]) == ([(1, 0)] if holds else [])


def test_one_or_two_words_have_to_be_the_whole_problem() -> None:
    assert overlapping(["2 apples", "Who has 2 apples?", "2 Apples!"], ["2 apples"]) == [(0, 0), (2, 0)]


def test_the_equations_that_are_held_out_are_not_in_the_others() -> None:
    bounds = Equations(
        max_coefficient=5, max_solution=5, max_constant=5, traces_per_problem=1, teacher=Teacher(operation_slip_frac=0)
    )
    texts = [equation.problem for equation in equations(bounds) if equation.right > 0]
    found = between(texts[:100], texts[100:])
    assert found.overlaps == []
    assert len(found.templates) == len(texts[100:])
    assert len(overlapping(texts, texts[:50])) == 50


def test_a_test_problem_at_the_edge_of_a_text_and_in_many_rows() -> None:
    train = [f"{TOM} Yes.", "nothing of it", f"Now: {TOM}", TOM.replace("Tom", "Bob")]
    assert overlapping(train, [TOM]) == [(0, 0), (2, 0), (3, 0)]
    assert (
        overlapping(
            ["Tom has 3 apples and buys", "4 more apples at the market. How many apples does Tom have now?"], [TOM]
        )
        == []
    )


def test_a_pair_depends_on_its_two_texts_alone() -> None:
    rng = random.Random(9)
    test, train = ([problem(rng) for _ in range(count)] for count in (60, 200))
    mixed = [kind(text, rng) for text in test for kind in (*INSIDE.values(), *VARIANTS.values())]
    together = set(overlapping(train + mixed, test))
    alone = {
        (200 + i, j)
        for i, text in enumerate(mixed)
        for j in [i // (len(INSIDE) + len(VARIANTS))]
        if overlapping([text], [test[j]])
    }
    assert together == alone


def test_empty_sets_unicode_and_a_problem_of_five_thousand_words() -> None:
    assert between([], []) == Contamination([], [])
    assert overlapping([TOM], []) == []
    assert overlapping([], [TOM]) == []
    assert overlapping(["", TOM], ["", TOM, "?"]) == [(1, 1)]
    rng = random.Random(11)
    long = " ".join(problem(rng) for _ in range(100))
    assert len(tokens(long)) > 4000
    assert overlapping([long], [long, TOM]) == [(0, 0)]
    assert overlapping([long + " " + TOM], [long, TOM]) == [(0, 0), (0, 1)]
    chinese = "小明有 3 个苹果 小红 给了 他 5 个 苹果 现在 一共 有 多少 个?"
    assert overlapping(["ⅹ " + chinese.replace("3", "３")], [chinese]) == [(0, 0)]
