r"""math-verify's verdict on two formulas, in a worker: what it reads, and where it rounds too much.

It compares numbers to six places after the point, so that `\frac{1}{20!}` is `\frac{1}{21!}` (Math-Verify's issue 14);
two numbers therefore have to agree to six digits as well. It is not symmetric: gold first.
"""

import logging
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from posttrain.judge.values import Formula, Group, Named, Quantity, Value

DIGITS = 6
"""Significant digits in which two numbers agree that math-verify holds equal."""


class UnreadableGold(Exception):
    """A formula of a gold that math-verify cannot read."""


def equal(gold: str, answer: str) -> bool:
    """Raises: UnreadableGold."""
    from math_verify import verify

    left = parsed(gold)
    if not left:
        raise UnreadableGold(gold)
    right = parsed(answer)
    if not right or _are_other_numbers(left, right):  # which is quick to see, and most wrong answers are
        return False
    if _says_nothing(left) or _says_nothing(right):
        sides = [side.split("=") for side in (gold, answer)]
        return len(sides[0]) == len(sides[1]) == 2 and all(equal(*pair) for pair in zip(*sides, strict=True))
    return bool(verify(list(left), list(right), timeout_seconds=None))


def readable(value: Value) -> bool:
    """math-verify reads each formula of a gold, and holds it equal to itself."""
    return all(parsed(text) and equal(text, text) for text in formulas(value))


def formulas(value: Value) -> Iterator[str]:
    """The formulas that a value is made of."""
    if isinstance(value, Group):
        for item in value.items:
            yield from formulas(item)
    elif isinstance(value, Named):
        yield from formulas(value.value)
    elif isinstance(value, Quantity) and isinstance(value.value, Formula):
        yield value.value.text


@lru_cache(maxsize=4096)
def parsed(formula: str) -> tuple[Any, ...]:
    """What math-verify reads. In a box, because it would search any other text for something like an answer."""
    from math_verify import LatexExtractionConfig, parse

    # It warns that its own time limits are off, in every worker.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    found = parse(
        f"\\boxed{{{formula}}}", extraction_config=[config], fallback_mode="no_fallback", parsing_timeout=None
    )
    return tuple(found)


def _are_other_numbers(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    """Both are numbers, and differ in their first digits."""
    values = [_number(side[0]) for side in (left, right)]
    if values[0] is None or values[1] is None:
        return False
    difference, size = abs(values[0] - values[1]), max(abs(values[0]), abs(values[1]))
    return bool(difference > size * 10**-DIGITS)


def _says_nothing(side: tuple[Any, ...]) -> bool:
    r"""An equation of numbers, such as `\cos\pi = -1`: math-verify holds any two that are true equal."""
    from sympy import Eq

    return isinstance(side[0], Eq) and not side[0].free_symbols


def _number(expression: Any) -> Any:
    """Its value, where it is a number and no equation, set or formula with names."""
    from sympy import Expr

    if not isinstance(expression, Expr) or not expression.is_number:
        return None
    try:
        value = expression.evalf(2 * DIGITS)
    except Exception:  # noqa: BLE001  sympy raises what it likes on monsters: then math-verify decides
        return None
    return value if value.is_number and value.is_finite else None
