"""What is a number, how it is written, and what it is worth."""

import time
from fractions import Fraction

import pytest

from posttrain.judge.numbers import MAX_CHARS, Number, number
from tests.hostile import hostile


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("5", "5"), ("05", "5"), ("+5", "5"), ("-5", "-5"), ("- 5", "-5"), ("0", "0"), ("-0", "0"), ("5.0", "5")),
        *(("2.5", "2.5"), (".5", "0.5"), ("-.5", "-0.5"), ("0.50", "0.5"), ("5.", "5")),
        *(("1,000", "1000"), ("12,345,678", "12345678"), ("-1,000.5", "-1000.5"), ("1 234 567", "1234567")),
        *(("4e4", "40000"), ("1.5E-3", "0.0015"), ("1.2 \\times 10^3", "1200"), ("2\\cdot 10^{-2}", "0.02")),
        *(("4.5 million", "4500000"), ("3 thousand", "3000"), ("twelve", "12"), ("Zero", "0")),
        ("12345678901234567890123", "12345678901234567890123"),
    ],
)  # fmt: skip
def test_plain_number(text: str, value: str) -> None:
    assert number(text) == Number(Fraction(value), "plain", "." in text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0.\\overline{3}", "1/3"), ("0.(3)", "1/3"), ("2.1\\overline{6}", "13/6"), ("-.\\overline{09}", "-1/11")),
        ("0.\\bar3", "1/3"),
    ],
)  # fmt: skip
def test_repeating_decimal(text: str, value: str) -> None:
    assert number(text) == Number(Fraction(value), "repeating")


@pytest.mark.parametrize(
    ("text", "above", "below"),
    [
        *(("3/4", 3, 4), ("-3/4", -3, 4), ("3 / 4", 3, 4), ("10/2", 10, 2), ("12/3", 12, 3), ("1,000/2", 1000, 2)),
        *(("\\frac{3}{4}", 3, 4), ("-\\frac{3}{4}", -3, 4), ("\\frac{-3}{4}", -3, 4), ("-\\frac{-3}{4}", 3, 4)),
        *(("\\frac{ 3 }{ 4 }", 3, 4), ("\\frac{1.5}{2}", 3, 4), ("1.5/2", 3, 4), ("(-3)/4", -3, 4)),
    ],
)  # fmt: skip
def test_fraction(text: str, above: int, below: int) -> None:
    found = number(text)
    assert found is not None
    assert (found.value, found.form, found.decimal) == (Fraction(above, below), "fraction", "." in text)


@pytest.mark.parametrize("text", ["1 1/2", "1\\frac{1}{2}", "1 \\frac{1}{2}"])
def test_mixed_number(text: str) -> None:
    assert number(text) == Number(Fraction(3, 2), "mixed")


def test_ratio_and_numeral_of_another_base() -> None:
    assert number("6:8") == Number(Fraction(3, 4), "ratio")
    assert number("43_5") == number("43_{5}") == Number(Fraction(43), "plain", base="5")
    assert number("43_5") != number("43_6")


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", ".", "x", "x = 5", "= 5", "5 6", "--5", "5-", "thirtyone"),
        *("1,00", "1,0000", "0,123", "12,34", "1,000,00", ",000", "1 23", "1 0000"),  # lists, if anything
        *("1/0", "0/0", "\\frac{1}{0}", "1/2/3", "1/-2", "\\frac{1}", "\\frac{1}{x}", "\\frac{1}{\\frac12}", "12:00"),
        *("2+3", "2*3", "2^3", "3!", "10^5", "10^5 \\times 2", "1e99999", "|5|", "2 1:2"),
        *("5%", "5\\%", "\\$5", "5 cm", "$5$", "{5}", "(5)"),
        *("5\x00", "\x005", "５", "−5", "½", "5\u200b", "5" * (MAX_CHARS + 1)),
    ],
)  # fmt: skip
def test_no_number(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("5", "5"),
        ("-2.50", "-2.5"),
        ("0.001", "0.001"),
        ("3/4", "\\frac{3}{4}"),
        ("1e-3", "\\frac{1}{1000}"),
        ("7.0", "7.0"),
    ],
)
def test_as_algebra_reads_it(text: str, latex: str) -> None:
    found = number(text)
    assert found is not None
    assert found.latex == latex


def test_an_integer_is_written_as_one() -> None:
    written = ["5", "5.0", "-1,000", "5.5", "10/2", "\\frac{10}{2}", "4 2/2"]
    assert [found.integer for found in map(number, written) if found] == [True] * 3 + [False] * 4


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
