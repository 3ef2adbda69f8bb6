r"""How a number is written: the one grammar for what is declared, what is evaluated and what needs no algebra.

An integer (`5`, `1,000`), a decimal (`2.5`, `.5`), a fraction (`3/4`, `\frac{-3}{4}`, `\frac12`) or a mixed number
(`1 1/2`, `1\frac{1}{2}`), with a sign or not, after `x =` or not. Standard library only: lighteval's environment
imports this file too.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_CHARS = 4000
"""A longer text is no number: Python reads no integer of more than 4,300 digits."""

_THOUSANDS = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+"  # in a plain number alone: of 1,234/5 math-verify makes two
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_ARGUMENT = rf"(?:\{{\s*[+-]?{_DECIMAL}\s*\}}|[0-9])"
_NUMBER = re.compile(
    rf"""
    (?: (?P<name>[a-zA-Z]) \s*=\s* )?
    (?P<sign>[+-]?) \s*
    (?:
        (?P<plain>{_THOUSANDS}(?:\.[0-9]+)?|{_DECIMAL})
      | (?: (?P<whole>[0-9]+) (?:\s+|(?=\\)) )?  # 12/3 is not 1 and 2/3
        (?:
            \\[dt]?frac \s* (?P<over>{_ARGUMENT}) \s* (?P<under>{_ARGUMENT})
          | (?P<above>{_DECIMAL}) \s*/\s* (?P<below>{_DECIMAL})
        )
    )
    """,
    re.VERBOSE,
)

POWER_OF_TEN = re.compile(r"(?<=[0-9])\s*(?:\\times|\\cdot|×|·|\*)\s*10\s*\^\s*(?:\{\s*[+-]?[0-9]+\s*\}|[0-9])")
"""What follows the digits in scientific notation."""


@dataclass(frozen=True)
class Number:
    """`name = value`; the name is '' where there is none."""

    name: str
    value: Fraction
    form: Literal["plain", "fraction", "mixed"]
    decimal: bool
    """Written with a decimal point."""

    @property
    def integer(self) -> bool:
        """An integer, and written as one: `5.0`, not `10/2`."""
        return self.form == "plain" and self.value.denominator == 1


def number(text: str) -> Number | None:
    """The number that the whole of a text is; None for anything else."""
    found = _NUMBER.fullmatch(text) if len(text) <= MAX_CHARS else None
    if found is None:
        return None
    above = _value(found["plain"] or found["over"] or found["above"])
    below = _value(found["under"] or found["below"] or "1")
    if not below:
        return None
    value = _value(found["whole"] or "0") + above / below
    return Number(
        name=found["name"] or "",
        value=-value if found["sign"] == "-" else value,
        form="plain" if found["plain"] else "mixed" if found["whole"] else "fraction",
        decimal="." in text,
    )


def _value(digits: str) -> Fraction:
    return Fraction(digits.strip("{}").replace(",", ""))
