"""Two formulas that differ at a point: what has a value, what has none, and that equals never differ."""

import math

import pytest

from posttrain.judge.formula import MAX_DEPTH, clearly_differ, value_of
from tests.hostile import hostile
from tests.pairs import MATH_STYLE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("1,234,567", 1234567),
        ("2.5", 2.5),
        ("2+3*4", 14),
        ("2-3-4", -5),
        ("12/4/3", 1),
        ("-3^2", -9),
        ("2^{10}", 1024),
        ("2^3 5", None),
        ("(2+3)(4-1)", 15),
        ("2(3)", 6),
        ("\\frac{3}{4}", 0.75),
        ("\\frac{-3}{4}", -0.75),
        ("\\dfrac{1}{\\frac{1}{2}}", 2),
        ("\\sqrt{16}", 4),
        ("\\sqrt[3]{8}", 2),
        ("\\frac{3+\\sqrt{5}}{2}", (3 + math.sqrt(5)) / 2),
        ("2\\pi", 2 * math.pi),
        ("3 \\cdot 4 \\times 5", 60),
        ("\\left(5\\right)", 5),
        ("45^\\circ", 45),
        ("e^2", math.e**2),
        # Not sure to mean the same to math-verify, or nothing at all.
        *((text, None) for text in ("", "5 6", "1\\frac{1}{2}", "1/2x", "x^10", "f(x)", "\\sin x", "|5|", "5!", "--5", "\\frac12")),
        *((text, None) for text in ("1/0", "0^{-1}", "2^3^4", "(5", "5)", "\\sqrt{-1}", "9^{9^{9}}", "5\\%", "five", "5+", "\\pi2")),
        *((text, None) for text in ("\\approx 5", "x+1=5", "5=5", "a=b=5", "\x005", "５", "\\text{even}", "1e5")),
    ],
)  # fmt: skip
def test_value(text: str, value: float | None) -> None:
    found = value_of(text)
    if value is None:
        assert found is None
    else:
        assert found is not None
        assert found[1] == (pytest.approx(value),)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x+1", "x+2"),
        ("(x+2)(x-3)", "(x+2)(x+3)"),
        ("x = 5", "x = 6"),
        ("x > 3", "x > 4"),
        ("(1,2)", "(2,1)"),
        ("[0,1]", "[0,2]"),
        ("1,2", "1,3"),
        ("\\{1,2,3\\}", "\\{1,2,4\\}"),
        ("3-4i", "3+4i"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}"),
        ("x", "y"),
    ],
)
def test_they_differ(gold: str, answer: str) -> None:
    assert clearly_differ(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x^2-9", "(x-3)(x+3)"),
        ("x+y", "y+x"),
        ("1,2", "2,1"),
        ("1,2", "\\{2, 1\\}"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("2\\sqrt{3}", "3.4641016"),
        ("\\frac{1}{3}", "0.3333"),  # near: math-verify decides
        # Another shape says nothing: math-verify may see an interval in a pair, a set in an inequality.
        ("x = 5", "5"),
        ("x = 5", "y = 5"),
        ("x > 3", "x < 3"),
        ("(1,2)", "[1,2]"),
        ("(1,2)", "1,2"),
        ("100", "100, 100"),
        ("5", "\\text{five}"),
    ],
)
def test_nothing_is_said(gold: str, answer: str) -> None:
    assert not clearly_differ(gold, answer)


@pytest.mark.parametrize("gold", MATH_STYLE)
def test_a_formula_never_differs_from_itself(gold: str) -> None:
    assert not clearly_differ(gold, gold)


def test_depth_is_bounded() -> None:
    deep = "(" * (MAX_DEPTH - 1) + "5" + ")" * (MAX_DEPTH - 1)
    assert value_of(deep) is not None
    assert value_of(f"({deep})") is None


def test_hostile_text_has_no_value_or_a_finite_one() -> None:
    for name, text in hostile():
        found = value_of(text[:1000])
        assert found is None or all(abs(part) < 1e12 for part in found[1]), name
