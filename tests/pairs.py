"""(gold, answer) pairs as graders meet them: answers of GSM8K and MATH style, each written in many ways, right and wrong.

`difference` names the reasons for which a verdict may differ from math-verify's.
"""

import random

from posttrain.judge.numbers import Number
from posttrain.judge.text import plain
from posttrain.judge.values import Choice, Group, Named, Quantity, Words, read

GSM8K_STYLE = ["18", "3", "70000", "540", "20", "64", "260", "160", "45", "460", "366", "694", "13", "60", "125", "230"]
GSM8K_STYLE += ["57500", "7", "6", "15", "14", "8", "98", "26", "2", "104", "109", "80", "35", "70", "23", "9", "75"]
GSM8K_STYLE += ["-5", "0", "1,000", "2,125", "34,000", "163", "3.5", "0.25", "12.75", "1.5", "-0.5", "99.9", "0.05"]

MATH_STYLE = [
    *(rf"\frac{{{a}}}{{{b}}}" for a, b in [(1, 2), (3, 4), (5, 7), (9, 256), (14, 3), (1, 576), (3, 56), (7, 2), (13, 15)]),
    *(rf"-\frac{{{a}}}{{{b}}}" for a, b in [(1, 2), (35, 9), (2, 3), (1, 8)]),
    r"\sqrt{13}", r"3\sqrt{13}", r"2\sqrt{3}", r"\frac{\sqrt{3}}{2}", r"11\sqrt{2}", r"1+\sqrt{2}", r"\frac{3+\sqrt{5}}{2}",
    r"\sqrt[3]{4}", r"6-2\sqrt{2}", r"\pi", r"2\pi", r"\frac{\pi}{3}", r"8\pi", r"\frac{9}{4}\pi", r"144\pi", r"e^2",
    "x^2+4x+4", "(x+2)(x-3)", "3x^2-2x+1", "y=2x+3", "x^3", "2x", r"\frac{1}{x+1}", "p-q", "7n+3", "x^2-9", "a^2+2ab+b^2",
    "(1,2)", "(-3,4)", "[0,1]", "(0,9)", r"(-\infty,2]", r"[-2,7]", r"(3,\frac{\pi}{2})", r"(2,12)\cup(12,102)",
    r"\{1,2,3\}", "1,-2", "1,2", "2,3,5", "3, 5, 7", r"\{-1,1\}", "x=5", "x = -3", "y=4", "n=12", "k = 7", "x>3", r"x\leq 2",
    "1+2i", "3-4i", "-i", "6+9i", r"45^\circ", r"120^\circ", "27", "1.25", r"10\%", "0.8", "2.5", "100", "12", "-50", "1008",
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}", "2^{10}", "5!", r"\binom{5}{2}",
    r"\log_2 8", r"\sin x", r"\tan 30", r"10^6", r"\text{even}", r"\text{(A)}", r"\text{Monday}", "2k+1", r"\frac{x}{y}",
]  # fmt: skip

WRITTEN = [  # the same, or nearly, in the ways that models write it
    "{}", " {} ", "${}$", "+{}", "{}.", "x = {}", "x={}", "y = {}", "{} = {}", "{}.0", r"\mathbf{{{}}}", r"\left({}\right)",
    "({})", "{{{}}}", r"\text{{ {} }}", "{} dollars", r"{} \text{{ cm}}", r"{}\text{{ km/h}}", r"\${}", "{}%", r"{}^\circ",
    "{} {}", "{}, {}", "0{}", "-{}", "--{}", "{}+0", "{}-0", r"1 \cdot {}", r"{} \times 1", "{}/1", r"\frac{{{}}}{{1}}",
    "{}^1", r"\sqrt{{{}}}", "2{}", "{}0", "{}1", "{}5", "about {}", "The answer is {}", r"\approx {}", "{}!", "|{}|", "{}x",
    "x = 6 = {}", "6 = {}", "not {}", "{} or 7", "7 or {}", r"\{{ {} \}}", "({}, {})", "{}\\", r"{}\ldots", "{}\n", "{}_{{10}}",
]  # fmt: skip

TURNED = [  # fraction to decimal, decimal to fraction, sums
    ("18", "36/2"), ("18", r"\frac{36}{2}"), ("18", "9+9"), ("18", "20-2"), ("18", r"6\times 3"), ("18", "2*9"), ("67", "21+46"),
    ("11", "5 6"), ("235", "1 234"), ("1", "1 1/2"), ("1234", "1,234"), ("1234", r"1{,}234"), ("1234", "12,34"), ("1200", r"1.2\times10^3"),
    ("1000", "10^3"), ("4", r"\sqrt{16}"), ("6", "3!"), ("0.5", "1/2"), ("0.5", r"\frac12"), ("0.25", "25/100"), ("1.5", r"1\frac{1}{2}"),
    (r"\frac{1}{2}", "0.5"), (r"\frac{1}{2}", "2/4"), (r"\frac{1}{2}", ".5"), (r"\frac{1}{2}", r"\frac{1}{4}+\frac{1}{4}"), (r"\frac{3}{4}", "0.75"),
    (r"\frac{1}{3}", "0.333333"), (r"\frac{1}{3}", "0.33"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"2\sqrt{3}", "3.4641016"), ("x^2-9", "(x-3)(x+3)"),
    ("2k+1", "1+2k"), ("1,2", "2,1"), ("(1,2)", "(2,1)"), ("x=5", "5=x"), ("x=5", "y=5"), ("x>3", "3<x"), ("1+2i", "2i+1"), ("e^2", "e^{2}"),
]  # fmt: skip


def pairs(seed: int = 0, wrong_per_gold: int = 3) -> list[tuple[str, str]]:
    """Each gold in each writing, with other golds of its kind, and with numbers changed; no pair twice."""
    rng = random.Random(seed)
    found = list(TURNED)
    for golds in (GSM8K_STYLE, MATH_STYLE):
        for gold in golds:
            found += [
                (gold, form.replace("{}", gold) if "{{" not in form else form.format(*[gold] * 3)) for form in WRITTEN
            ]
            found += [(gold, other) for other in rng.sample(golds, wrong_per_gold)]
            digits = [place for place, character in enumerate(gold) if character.isdigit()]
            for place in digits[:2]:
                changed = str((int(gold[place]) + rng.randint(1, 9)) % 10)
                found.append((gold, gold[:place] + changed + gold[place + 1 :]))
    return list(dict.fromkeys(found))


UNFINISHED = "a number is asked, and this is still to be calculated, or more than one number"
UNIT = "a unit, a percent sign or money is read, where math-verify strips it or makes variables of it"
WORDS = "words and letters are compared as text, not as products of variables"
FORM = "brackets, names and the number of items are part of a list, a tuple, a set or an interval"
SPELLING = "punctuation, thousands and wrappers that math-verify does not read"
BRACES = "braces that do not match declare nothing"
TOO_SLOW = "no verdict in time"
UNEXPLAINED = "UNEXPLAINED"


def difference(gold: str, answer: str, said: str | None, ours: bool | None, theirs: bool) -> str:
    """Why our verdict on what an answer declares (`said`) differs from math-verify's on the answer as it stands."""
    if ours is None:
        return TOO_SLOW
    if said is None:
        return BRACES
    asked, told = read(gold), read(said)
    asked, told = (value.value if isinstance(value, Named) else value for value in (asked, told))
    if any(isinstance(value, Quantity) and value.unit.name for value in (asked, told)):
        return UNIT
    if any(isinstance(value, Words | Choice) for value in (asked, told)):
        return WORDS
    if isinstance(asked, Quantity) and isinstance(asked.value, Number) and not ours:
        return UNFINISHED
    if any(isinstance(value, Group) for value in (asked, told)) or "=" in gold + said:
        return FORM
    if "\\text{" in answer:
        return UNIT
    return SPELLING if ours and (plain(said) != answer or "\\approx" in answer or "," in gold) else UNEXPLAINED
