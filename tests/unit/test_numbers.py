"""What is a number, how it is written, and what it is worth."""

import time
from fractions import Fraction

import pytest

from posttrain.judge.numbers import MAX_CHARS, Number, number
from tests.hostile import hostile


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("5", 5), ("05", 5), ("+5", 5), ("-5", -5), ("- 5", -5), ("0", 0), ("-0", 0), ("5.0", 5)),
        *(("2.5", 2.5), (".5", 0.5), ("-.5", -0.5), ("0.50", 0.5)),
        *(("1,000", 1000), ("12,345,678", 12345678), ("-1,000.5", -1000.5), ("1234", 1234)),
        *(("x = 5", 5), ("x=-5", -5), ("n = 1,000", 1000)),
        ("12345678901234567890123", 12345678901234567890123),
    ],
)
def test_plain_number(text: str, value: float) -> None:
    name = text[0] if "=" in text else ""
    assert number(text) == Number(name, Fraction(value), "plain", "." in text)


@pytest.mark.parametrize(
    ("text", "above", "below"),
    [
        *(("3/4", 3, 4), ("-3/4", -3, 4), ("3 / 4", 3, 4), ("10/2", 10, 2), ("12/3", 12, 3), ("x = 3/4", 3, 4)),
        *(("\\frac{3}{4}", 3, 4), ("-\\frac{3}{4}", -3, 4), ("\\frac{-3}{4}", -3, 4), ("-\\frac{-3}{4}", 3, 4)),
        *(("\\dfrac{3}{4}", 3, 4), ("\\tfrac 34", 3, 4), ("\\frac34", 3, 4), ("\\frac3{4}", 3, 4)),
        *(("\\frac{ 3 }{ 4 }", 3, 4), ("\\frac{1.5}{2}", 3, 4), ("1.5/2", 3, 4)),
    ],
)
def test_fraction(text: str, above: int, below: int) -> None:
    found = number(text)
    assert found is not None
    assert (found.value, found.form, found.decimal) == (Fraction(above, below), "fraction", "." in text)


@pytest.mark.parametrize("text", ["1 1/2", "1\\frac{1}{2}", "1 \\frac12", "x = 1 1/2"])
def test_mixed_number(text: str) -> None:
    found = number(text)
    assert found is not None
    assert (found.value, found.form) == (Fraction(3, 2), "mixed")


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", ".", "5.", "x", "x =", "= 5", "xy = 5", "x_1 = 5", "x = 5 = 5", "five", "5 6", "--5", "5-"),
        *("1,00", "1,0000", "0,123", "12,34", "1,000,00", ",000", "1,000/2", "\\frac{1,000}{2}"),  # lists, if anything
        *("1/0", "0/0", "\\frac{1}{0}", "1/2/3", "1/-2", "\\frac{1}", "\\frac123", "\\frac{1}{x}", "\\frac1{\\frac12}"),
        *("2+3", "2*3", "2^3", "3!", "1e5", "10^5", "1.2 \\times 10^3", "|5|"),
        *("5%", "5\\%", "\\$5", "5 cm", "$5$", "{5}", "(5)"),
        *("5\x00", "\x005", "５", "٥", "−5", "½", "5\u200b", "5" * (MAX_CHARS + 1)),
    ],
)  # fmt: skip
def test_no_number(text: str) -> None:
    assert number(text) is None


def test_an_integer_is_written_as_one() -> None:
    written = ["5", "5.0", "-1,000", "x = 5", "5.5", "10/2", "\\frac{10}{2}", "4 2/2"]
    assert [found.integer for found in map(number, written) if found] == [True] * 4 + [False] * 4


def test_hostile_text_is_told_from_a_number_at_once() -> None:
    texts = [text[:MAX_CHARS] for _, text in hostile()]
    texts += [
        pattern * (MAX_CHARS // len(pattern)) for pattern in ("1", "1,", "1,000", "1 ", "1/", "\\frac", "\\frac1", "x=")
    ]
    texts += ["1" * (MAX_CHARS - 1) + end for end in ("/", ".", ",", " ", "\\", "}")]
    began = time.process_time()
    for text in texts:
        number(text)
    assert time.process_time() - began < 1
