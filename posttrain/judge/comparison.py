r"""Does an answer say what the gold says? Kind by kind, as the table in docs/rewards.md has it.

Where the gold is a number the answer has to be one: what is still to be calculated is none. Where it is a formula,
`algebra` decides, which is math-verify. Gold first: the relation is not symmetric.
"""

from collections.abc import Callable
from fractions import Fraction

from posttrain.judge.numbers import Number
from posttrain.judge.text import plain
from posttrain.judge.units import NONE, Unit
from posttrain.judge.values import Choice, Formula, Group, Named, Quantity, Value, Words, equated, read, value

TOLERANCE = Fraction(1, 1_000_000)
"""Relative, between a decimal and a fraction: `0.333333` is 1/3, and `0.33` is not."""
NOISE = Fraction(1, 10**12)
"""Relative, between two decimals: what floating point leaves."""

MAX_PAIRS = 900
"""Items of a list times items of another that are compared without regard to order."""

Algebra = Callable[[str, str], bool]
"""Are two formulas equal, gold first? Raises if it cannot say."""


def agree(gold: str, answer: str, algebra: Algebra) -> bool:
    """The verdict on an answer, both as they were written."""
    if plain(gold) == plain(answer):
        return True
    return same(read(gold), read(answer), algebra)


def same(gold: Value, answer: Value, algebra: Algebra) -> bool:
    """The verdict on what they say."""
    if gold == answer:
        return True
    if (sides := equated(answer)) and not equated(gold):
        return _all_say(gold, sides, algebra)
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _named(gold, answer, algebra)
    if isinstance(gold, Choice) or isinstance(answer, Choice):
        return _choices(gold, answer, algebra)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return isinstance(gold, Words) and isinstance(answer, Words) and _words(gold) == _words(answer)
    if isinstance(gold, Group) or isinstance(answer, Group):
        return _groups(gold, answer, algebra)
    return _quantities(gold, answer, algebra)


def _all_say(gold: Value, sides: list[str], algebra: Algebra) -> bool:
    """Of a chain of equations, of which math-verify would take the last, each side says it. A number is said once."""
    target = gold.value if isinstance(gold, Named) else gold
    if isinstance(target, Quantity) and isinstance(target.value, Number):
        return False
    return all(same(target, value(side, 1), algebra) for side in sides)


def _named(gold: Value, answer: Value, algebra: Algebra) -> bool:
    """A name counts where both have one. An equation that is no `name = value` is a formula."""
    if isinstance(gold, Named) and isinstance(answer, Named):
        if gold.name == answer.name:
            return same(gold.value, answer.value, algebra)
        return _is_formula(gold.value) and _is_formula(answer.value) and algebra(_text(gold), _text(answer))
    if isinstance(gold, Named):
        if _is_equation(answer):
            return algebra(_text(gold), _text(answer))
        return same(gold.value, answer, algebra)
    assert isinstance(answer, Named)
    if _is_equation(gold):
        return algebra(_text(gold), _text(answer))
    return same(gold, answer.value, algebra)


def _is_formula(value_: Value) -> bool:
    return isinstance(value_, Quantity) and isinstance(value_.value, Formula)


def _is_equation(value_: Value) -> bool:
    return isinstance(value_, Quantity) and isinstance(value_.value, Formula) and "=" in value_.value.text


def _text(value_: Value) -> str:
    """LaTeX for algebra."""
    if isinstance(value_, Named):
        return f"{value_.name}={_text(value_.value)}"
    if isinstance(value_, Group):
        return _latex(value_)
    if isinstance(value_, Choice):
        return value_.letter
    return f"\\text{{{value_.text}}}" if isinstance(value_, Words) else _written(value_.value)


def _written(what: Number | Formula) -> str:
    return what.text if isinstance(what, Formula) else what.latex


def _words(words: Words) -> str:
    return " ".join(word for word in words.text.split() if word not in ("the", "a", "an"))


def _choices(gold: Value, answer: Value, algebra: Algebra) -> bool:
    """The letter, or the text of the option."""
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        return gold.letter == answer.letter
    if isinstance(gold, Choice):
        if gold.text:
            return same(value(gold.text, 1), answer, algebra)
        return (
            isinstance(answer, Quantity)
            and isinstance(answer.value, Formula)
            and algebra(gold.letter, answer.value.text)
        )
    assert isinstance(answer, Choice)
    if answer.text or not _is_formula(gold):
        return False
    assert isinstance(gold, Quantity)
    return algebra(_written(gold.value), answer.letter)


# ---------------------------------------------------------------------------------------------------------------------
# Groups


def _groups(gold: Value, answer: Value, algebra: Algebra) -> bool:
    if not isinstance(gold, Group):
        return _single(gold, answer, algebra)
    if not isinstance(answer, Group):
        if gold.kind in ("set", "list") and _says_one_thing(gold, algebra):
            return same(gold.items[0], answer, algebra)
        return _is_set_formula(answer) and algebra(_latex(gold), _text(answer))
    if gold.name and answer.name and gold.name != answer.name:
        return False
    if {gold.kind, answer.kind} <= {"list", "set"} or {gold.kind, answer.kind} == {"union"}:
        return _unordered(gold.items, answer.items, algebra)
    if gold.kind != answer.kind and ({gold.kind, answer.kind} != {"list", "()"} or gold.name or answer.name):
        return False
    return len(gold.items) == len(answer.items) and all(
        same(left, right, algebra) for left, right in zip(gold.items, answer.items, strict=True)
    )


def _says_one_thing(gold: Group, algebra: Algebra) -> bool:
    r"""One value, in one writing or several (`1\frac{1}{2}, \frac{3}{2}`)."""
    return bool(gold.items) and all(same(gold.items[0], item, algebra) for item in gold.items[1:])


def _single(gold: Value, answer: Value, algebra: Algebra) -> bool:
    """An answer in brackets to a gold without: a set of one, or what a formula such as `\\mathbb{R}` stands for."""
    assert isinstance(answer, Group)
    if len(answer.items) == 1 and answer.kind in ("set", "list"):
        return same(gold, answer.items[0], algebra)
    return _is_set_formula(gold) and algebra(_text(gold), _latex(answer))


def _is_set_formula(value_: Value) -> bool:
    """A formula that stands for a set: no number and nothing with a unit."""
    return _is_formula(value_)


def _latex(group: Group) -> str:
    if group.source:
        return group.source
    items = [_text(item) for item in group.items]
    if group.kind == "union":
        return "\\cup".join(items)
    if group.kind == "matrix":
        return "\\begin{pmatrix}" + "\\\\".join(items) + "\\end{pmatrix}"
    if group.kind == "row":
        return "&".join(items)
    left, right = {"list": ("", ""), "set": ("\\{", "\\}")}.get(group.kind, (group.kind[0], group.kind[-1]))
    return left + ",".join(items) + right


def _unordered(golds: tuple[Value, ...], answers: tuple[Value, ...], algebra: Algebra) -> bool:
    golds, answers = tuple(dict.fromkeys(golds)), tuple(dict.fromkeys(answers))
    if len(golds) != len(answers) or len(golds) * len(answers) > MAX_PAIRS:
        return False
    if golds and all(isinstance(item, Named) for item in (*golds, *answers)):
        by_name = {item.name: item for item in answers if isinstance(item, Named)}
        if len(by_name) == len(golds) and all(item.name in by_name for item in golds if isinstance(item, Named)):
            return all(same(item, by_name[item.name], algebra) for item in golds if isinstance(item, Named))
    left = list(answers)
    for gold in golds:
        found = next((n for n, answer in enumerate(left) if gold == answer), None)
        if found is None:
            found = next((n for n, answer in enumerate(left) if same(gold, answer, algebra)), None)
        if found is None:
            return False
        del left[found]
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Quantities


def _quantities(gold: Value, answer: Value, algebra: Algebra) -> bool:
    assert isinstance(gold, Quantity)
    assert isinstance(answer, Quantity)
    if isinstance(gold.value, Number):
        return isinstance(answer.value, Number) and _numbers(gold, answer)
    if gold.unit.measures and answer.unit.measures and gold.unit != answer.unit:
        return False
    if _is_share(answer.unit) and not _is_share(gold.unit):
        return False
    return algebra(_written(gold.value), _written(answer.value))


def _numbers(gold: Quantity, answer: Quantity) -> bool:
    left, right = gold.value, answer.value
    assert isinstance(left, Number)
    assert isinstance(right, Number)
    if left.base and right.base and left.base != right.base:
        return False
    if _is_share(gold.unit) or _is_share(answer.unit):
        return _percent(gold, answer)
    if _to_be_divided(left, right):
        return False
    if gold.unit.measures and answer.unit.measures:
        if gold.unit.dimension != answer.unit.dimension:
            return False
        return close(left.value * gold.unit.factor, right.value * answer.unit.factor, tolerance(left, right))
    return close(left.value, right.value, tolerance(left, right))


def _to_be_divided(left: Number, right: Number) -> bool:
    """An integer is asked, and the answer is a fraction of two."""
    return left.integer and right.form != "plain"


def _is_share(unit: Unit) -> bool:
    return unit.dimension == (("share", 1),)


def _percent(gold: Quantity, answer: Quantity) -> bool:
    r"""`20\%` is 20 %, 0.2 and 1/5, and the bare 20 that was asked for in percent.

    To a gold without the sign `20\%` is right for 20, which a question may have asked in percent, and for 0.2; `1\%` is
    not right for 1, nor `0.5\%` for 0.5, since these may be shares.
    """
    left, right = gold.value, answer.value
    assert isinstance(left, Number)
    assert isinstance(right, Number)
    within = tolerance(left, right)
    if _is_share(gold.unit) and _is_share(answer.unit):
        return close(left.value, right.value, within)
    if gold.unit != NONE and answer.unit != NONE:
        return False
    if _is_share(gold.unit):
        bare = close(left.value, right.value, within) and not _to_be_divided(left, right)
        return bare or close(left.value / 100, right.value, within)
    if close(left.value, right.value / 100, within):
        return True
    return abs(left.value) > 1 and close(left.value, right.value, within)


def tolerance(left: Number, right: Number) -> Fraction:
    if not (left.decimal or right.decimal):
        return Fraction(0)
    return NOISE if left.form == right.form == "plain" else TOLERANCE


def close(left: Fraction, right: Fraction, within: Fraction) -> bool:
    """Equal, or nearer than a share of the larger."""
    return left == right or abs(left - right) <= within * max(abs(left), abs(right))
