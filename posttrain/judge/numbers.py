r"""How a number is written: the one grammar for what is declared, what is evaluated and what needs no algebra.

An integer (`5`, `1,000`), a decimal (`2.5`, `.5`, `0.\overline{3}`), scientific notation (`4e4`, `1.2 \times 10^{3}`),
a fraction (`3/4`, `\frac{-3}{4}`, `3:4`), a mixed number (`1 1/2`, `1\frac{1}{2}`), a numeral in another base (`43_5`)
or a word (`four`), with a sign or not. The text is one that `text.plain` has made. Standard library only.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_CHARS = 4000
"""A longer text is no number: Python reads no integer of more than 4,300 digits."""
MAX_EXPONENT = 1000

_THOUSANDS = r"[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?:[ ][0-9]{3})+)"
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_ANY = rf"(?:{_THOUSANDS}(?:\.[0-9]+)?|[0-9]+\.(?![0-9])|{_DECIMAL})"
_ARGUMENT = rf"\{{\s*[+-]?\s*{_ANY}\s*\}}"
_NUMBER = re.compile(
    rf"""
    (?P<sign>[+-]?) \s*
    (?:
        (?P<repeats>[0-9]*\.[0-9]*)
        (?: \\(?:overline|bar|dot)\s*(?:\{{(?P<over1>[0-9]+)\}}|(?P<over2>[0-9])) | \((?P<over3>[0-9]+)\) )
      | (?P<plain>{_ANY})
        (?: _\{{?\s*(?P<base>[0-9]{{1,2}}|\s*two|\s*eight)\s*\}}?
          | [eE](?P<e>[+-]?[0-9]{{1,4}})
          | \s*(?:\\times|\\cdot)\s*10\s*\^\s*(?:\{{\s*(?P<exponent>[+-]?\s*[0-9]{{1,4}})\s*\}}|(?P<digit>[0-9]))
          | \s+(?P<scale>hundred|thousand|million|billion|trillion)
        )?
      | (?: (?P<whole>{_ANY}) (?:\s*\+?\s*(?=\\frac)|\s+) )?  # 12/3 is not 1 and 2/3
        (?:
            \\frac \s* (?P<over>{_ARGUMENT}) \s* (?P<under>{_ARGUMENT})
          | (?P<above>{_ANY}) \s*(?P<slash>[/:])\s* (?P<below>{_ANY})
          | \(\s*(?P<above2>[+-]?{_ANY})\s*\) \s*/\s* \(?\s*(?P<below2>{_ANY})\s*\)?
        )
    )
    """,
    re.VERBOSE,
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_WORDS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS += ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_WORDS += ("twenty",)
WORDS = {word: number for number, word in enumerate(_WORDS)}

Form = Literal["plain", "repeating", "fraction", "mixed", "ratio"]


@dataclass(frozen=True)
class Number:
    """A rational number as it is written."""

    value: Fraction
    form: Form
    decimal: bool = False
    """Written with a decimal point."""
    base: str = ""
    """Subscript that names the base of the digits; the value reads them as decimal ones."""

    @property
    def integer(self) -> bool:
        """An integer, and written as one: `5.0`, not `10/2`."""
        return self.form == "plain" and self.value.denominator == 1

    @property
    def latex(self) -> str:
        """As algebra reads it: a decimal stays one, so that it may be rounded."""
        above, below = self.value.numerator, self.value.denominator
        places = max(0, below.bit_length())
        if self.decimal and self.form == "plain" and 10**places % below == 0:
            digits = str(abs(above) * 10**places // below).rjust(places + 1, "0")
            whole, part = (digits[:-places], digits[-places:].rstrip("0")) if places else (digits, "")
            return f"{'-' if above < 0 else ''}{whole}.{part or '0'}"
        return str(above) if below == 1 else f"\\frac{{{above}}}{{{below}}}"


def number(text: str) -> Number | None:
    """The number that the whole of a text is; None for anything else."""
    if text.lower() in WORDS:
        return Number(Fraction(WORDS[text.lower()]), "plain")
    found = _NUMBER.fullmatch(text) if len(text) <= MAX_CHARS else None
    if found is None:
        return None
    magnitude = _repeating(found) if found["repeats"] else _magnitude(found)
    if magnitude is None:
        return None
    form: Form = (
        "plain" if found["plain"] else "repeating" if found["repeats"] else "mixed" if found["whole"] else "fraction"
    )
    return Number(
        value=-magnitude if found["sign"] == "-" else magnitude,
        form="ratio" if found["slash"] == ":" else form,
        decimal="." in text and form != "repeating",
        base=(found["base"] or "").strip(),
    )


def _magnitude(found: re.Match[str]) -> Fraction | None:
    if found["plain"]:
        exponent = int((found["e"] or found["exponent"] or found["digit"] or "0").replace(" ", ""))
        exponent += _SCALES.get(found["scale"] or "", 0)
        return _value(found["plain"]) * Fraction(10) ** exponent if abs(exponent) <= MAX_EXPONENT else None
    below = _value(found["under"] or found["below"] or found["below2"])
    if not below or (found["whole"] and found["slash"] == ":"):
        return None
    return _value(found["whole"] or "0") + _value(found["over"] or found["above"] or found["above2"]) / below


def _repeating(found: re.Match[str]) -> Fraction | None:
    whole, _, digits = found["repeats"].partition(".")
    again = found["over1"] or found["over2"] or found["over3"]
    first, all_digits = int(whole + digits or "0"), int((whole + digits or "0") + again)
    return Fraction(all_digits - first, 10 ** len(digits) * (10 ** len(again) - 1))


def _value(digits: str) -> Fraction:
    return Fraction(digits.strip("{}").replace(",", "").replace(" ", "").rstrip("."))
