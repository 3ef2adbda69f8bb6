r"""What an answer is: a number with its unit, a letter of a choice, words, a group of values, or a formula for algebra.

`read` takes a text apart where its form is part of the answer: lists, sets, tuples, intervals, inequalities, matrices,
`name = value`. What remains is a number, a word, or a formula, which math-verify reads.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from posttrain.judge.numbers import Number, number
from posttrain.judge.text import encloses, plain, without_end
from posttrain.judge.units import NONE, Unit, split_unit

MAX_DEPTH = 6
MAX_ITEMS = 200

_SPACE = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z0-9])|\s+")
Kind = Literal["list", "set", "union", "matrix", "row", "()", "[]", "(]", "[)"]


@dataclass(frozen=True)
class Formula:
    """LaTeX that only algebra can compare, without the spaces that say nothing."""

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _SPACE.sub(lambda found: f"{found[1]} " if found[1] else "", self.text))


@dataclass(frozen=True)
class Quantity:
    """A number or a formula, with or without a unit."""

    value: Number | Formula
    unit: Unit = NONE


@dataclass(frozen=True)
class Words:
    """Text, compared as text; `pm 5` is no text and neither is a product of variables."""

    text: str


@dataclass(frozen=True)
class Choice:
    """A letter of a multiple choice, with the text of the option or without."""

    letter: str
    text: str = ""


@dataclass(frozen=True)
class Group:
    """Values in brackets, or with commas between them; of a list, a set and a union the order does not count."""

    kind: Kind
    items: tuple["Value", ...]
    name: str = ""
    """What an inequality bounds."""
    source: str = field(default="", compare=False)
    """The inequality as it was written."""


@dataclass(frozen=True)
class Named:
    """`name = value`, where the name is one thing or several."""

    name: str
    value: "Value"


Value = Quantity | Words | Choice | Group | Named

_LETTERED = re.compile(r"\(\s*([A-Ja-j])\s*\)\s*(.+)|([A-J])\s*[).:]\s*(.+)|(?:[Oo]ption|[Cc]hoice)\s+\(?([A-Ja-j])\)?")
_LETTER = re.compile(r"\(\s*([A-Ja-j])\s*\)|([A-Z])")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\.")
_WORD = re.compile(r"[^\W\d_]{3,}")
_SHORT_WORDS = {
    "no",
    "on",
    "up",
    "in",
    "is",
    "it",
    "at",
    "or",
    "so",
    "we",
    "he",
    "me",
    "us",
    "am",
    "pm",
    "do",
    "go",
    "if",
}
_FUNCTION_WORDS = {
    "sin",
    "cos",
    "tan",
    "log",
    "exp",
    "gcd",
    "lcm",
    "max",
    "min",
    "mod",
    "det",
    "arcsin",
    "arccos",
    "arctan",
}
_SMALL_WORD = re.compile(r"\s(?:at|if|is|of|on|to|as|by|no)\s")
_CLOCK = re.compile(r"([0-9]{1,2})(?::([0-9]{2})(?::00)?)?\s*([ap])\.?\s?m?\.*|([0-9]{1,2}):(00)", re.I)
_NAME = re.compile(
    r"\\?[a-zA-Z]+'*(?:_\{?\w+\}?)?'*(?:\^\{?(?:-1|\\prime)\}?)?(?:\s*\(\s*-?[\w, +-]{1,9}\s*\))?"
    r"|\(\s*[a-zA-Z](?:_?\{?\w?\}?)(?:\s*,\s*[a-zA-Z](?:_?\{?\w?\}?))*\s*\)"
    r"|\\frac\{\s*[A-Z]{1,2}\s*\}\{\s*[A-Z]{1,2}\s*\}|\\angle\s*[A-Z]{1,3}|[a-zA-Z](?:_?\w)?(?:\s*,\s*[a-zA-Z](?:_?\w)?)+"
    r"|\\(?:overline|vec|hat|bar|mathbf|overrightarrow)\s*\{\s*\w+\s*\}|\|?\s*[A-Z]{1,2}\s*\|?"
)
_COMPARES = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|<|>")
_BUILDER = re.compile(
    r"\\\{\s*\\?[a-zA-Z]+\s*(?:\\in\s*\\mathbb\{R\})?\s*(?:\||\\mid(?![a-zA-Z])|\\vert|:)\s*(.+?)\s*\\\}", re.DOTALL
)
_BESIDE_INTERVAL = re.compile(r".*(?:<|>|\\le|\\ge)[^:]*:\s*([(\[].*)", re.DOTALL)
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_OPENS, _CLOSES = "([", ")]"


@lru_cache(maxsize=2**14)
def read(text: str) -> Value:
    """What a text, as somebody wrote it, says."""
    return value(plain(text), 0)


def value(text: str, depth: int) -> Value:
    """What a text says that `plain` has made."""
    text = without_end(text)
    found = single(text) if depth < MAX_DEPTH and text else Quantity(Formula(text))
    if found is not None:
        return found
    return structured(text, depth) or quantity_or_words(text)


def single(text: str) -> Value | None:
    """A number, with a unit or without, a letter of a choice, a time of day."""
    found = number(text)
    if found is not None:
        return Quantity(found)
    measured = _quantity(text)
    if measured is not None and isinstance(measured.value, Number):
        return measured
    clock = _CLOCK.fullmatch(text)
    if clock:
        return Words(f"{int(clock[1] or clock[4])}:{clock[2] or clock[5] or '00'}{(clock[3] or '').lower()}")
    return choice(text)


def choice(text: str) -> Choice | None:
    found = _LETTER.fullmatch(text)
    if found:
        return Choice((found[1] or found[2]).upper())
    found = _LETTERED.fullmatch(text)
    if not found:
        return None
    letter = found[1] or found[3] or found[5]
    rest = (found[2] or found[4] or "").strip()
    return (
        None
        if re.match(r"[=+\-*/^\\,<>]|\(.*\)$", rest) and not rest.startswith(("\\frac", "\\$", "\\sqrt"))
        else Choice(letter.upper(), rest)
    )


def structured(text: str, depth: int) -> Value | None:
    """What brackets, commas, signs of equality and order make of several values."""
    return (
        _matrix(text, depth)
        or _several(text, depth)
        or _set_builder(text, depth)
        or _approximation(text, depth)
        or _membership(text, depth)
        or _equation(text, depth)
        or _union(text, depth)
        or _bracketed(text, depth)
        or _inequality(text, depth)
        or _plus_minus(text, depth)
    )


def _matrix(text: str, depth: int) -> Value | None:
    found = _MATRIX.fullmatch(text)
    if not found or "\\begin" in found[2]:
        return None
    rows = [row for row in re.split(r"\\\\", found[2]) if row.strip() and row.strip() != "\\hline"]
    cells = [tuple(value(cell.strip(), depth + 1) for cell in row.split("&")) for row in rows]
    if sum(map(len, cells)) > MAX_ITEMS or found[1] in ("vmatrix", "Vmatrix"):
        return None
    return Group("matrix", tuple(Group("row", row) for row in cells))


def _several(text: str, depth: int) -> Value | None:
    parts = [part for part in split(text) if part]
    if len(parts) < 2 or len(parts) > MAX_ITEMS:
        return None
    if _is_prose(text) and not all(
        number(p) or "=" in p or _quantity(p) or choice(p) or p[:1] in "([\\" for p in parts
    ):
        return None
    items = [value(part, depth + 1) for part in parts]
    first, rest = items[0], items[1:]
    if isinstance(first, Named) and not any(isinstance(item, Named) for item in rest):  # n = 2, 3, 4
        return Named(first.name, _flat([first.value, *rest]))
    return Group("list", tuple(items)) if _nested(text) else _flat(items)


def _nested(text: str) -> bool:
    """Semicolons between lists with commas."""
    return ";" in text and "," in text and len(split_at(text, ";")) > 1


def _flat(items: list[Value]) -> Group:
    """One list of the items and of the lists among them (`a, b \\pm c`); a union where the items are intervals."""
    flat: list[Value] = []
    for item in items:
        flat += item.items if isinstance(item, Group) and item.kind == "list" else [item]
    ranges = [item for item in flat if isinstance(item, Group) and item.name]
    if flat and len(ranges) == len(flat):
        return Group("union", tuple(flat), ranges[0].name)
    return Group("list", tuple(flat))


def _set_builder(text: str, depth: int) -> Value | None:
    found = _BUILDER.fullmatch(text)
    return value(found[1], depth + 1) if found else None


def _approximation(text: str, depth: int) -> Value | None:
    r"""Of `\sqrt{2} \approx 1.41` the exact value, which the answer says first."""
    exact, sign, rounded = text.partition("\\approx")
    if not sign or "\\approx" in rounded:
        return None
    exact = exact.strip()
    return value(rounded if not exact or _NAME.fullmatch(exact) else exact, depth + 1)


def _membership(text: str, depth: int) -> Value | None:
    name, member, rest = text.partition("\\in ")
    if not member:
        name, member, rest = text.partition("\\in")
        if not member or rest[:1].isalpha():
            return None
    return value(rest, depth + 1) if _NAME.fullmatch(name.strip()) else None


def _equation(text: str, depth: int) -> Value | None:
    sides = split_at(text, "=")
    if len(sides) < 2:
        return None
    if len(sides) == 2 and _NAME.fullmatch(sides[0]):
        return Named(sides[0].replace(" ", ""), value(sides[1], depth + 1))
    if len(sides) == 2 and _NAME.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]):
        return Named(sides[1].replace(" ", ""), value(sides[0], depth + 1))
    return None


def equated(found: Value) -> list[str]:
    """What a chain such as `f(x) = (x+1)^2 = x^2+2x+1` equates, without the name; nothing of a single equation.

    Two equations in two lines are such a chain too: `x = 1 = 1` and below it `x = 6`.
    """
    if not isinstance(found, Quantity) or not isinstance(found.value, Formula):
        return []
    sides = split_at(found.value.text, "=")
    if len(sides) < 3:
        return []
    return sides[1:] if _NAME.fullmatch(sides[0]) else sides


def _inequality(text: str, depth: int) -> Value | None:
    r"""An interval, where one name is bounded by values; `x<1:(-\infty,1)` says it twice."""
    twice = _BESIDE_INTERVAL.fullmatch(text)
    if twice:
        return value(twice[1], depth + 1)
    signs = _COMPARES.findall(text)
    if not 1 <= len(signs) <= 2 or "=" in text or "|" in text:
        return None
    parts = [part.strip() for part in _COMPARES.split(text)]
    order = {"<": 1, "\\le": 1, ">": -1, "\\ge": -1}
    if len(parts) == 2:
        if _NAME.fullmatch(parts[1]) and not _NAME.fullmatch(parts[0]):
            parts, signs = parts[::-1], [{"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}[signs[0]]]
        if not _NAME.fullmatch(parts[0]) or _has_name(parts[1], parts[0]):
            return None
        strict, bound = signs[0] in "<>", value(parts[1], depth + 1)
        infinite = Quantity(Formula("-\\infty" if order[signs[0]] > 0 else "\\infty"))
        if order[signs[0]] > 0:
            return Group("()" if strict else "(]", (infinite, bound), parts[0], text)
        return Group("()" if strict else "[)", (bound, infinite), parts[0], text)
    if order[signs[0]] != order[signs[1]] or not _NAME.fullmatch(parts[1]):
        return None
    if order[signs[0]] < 0:
        parts, signs = parts[::-1], signs[::-1]
    kind = ("(" if signs[0] in "<>" else "[") + (")" if signs[1] in "<>" else "]")
    return Group(kind, (value(parts[0], depth + 1), value(parts[2], depth + 1)), parts[1], text)  # type: ignore[arg-type]


def _has_name(text: str, name: str) -> bool:
    return name in re.findall(r"\\[a-zA-Z]+|[a-zA-Z]", text)


def _union(text: str, depth: int) -> Value | None:
    parts = split_at(text, "\\cup")
    if len(parts) < 2 or len(parts) > MAX_ITEMS or not all(parts):
        return None
    return Group("union", tuple(value(part, depth + 1) for part in parts))


def _bracketed(text: str, depth: int) -> Value | None:
    if text[:2] == "\\{" and text[-2:] == "\\}" and "\\}" not in text[2:-2]:
        return Group("set", _flat([value(part, depth + 1) for part in split(text[2:-2]) if part]).items)
    if not (text[:1] in _OPENS and text[:1] and text[-1:] in _CLOSES and encloses(text)):
        return None
    parts = split(text[1:-1], thousands=False)
    if len(parts) == 1:
        alone = text[0] + text[-1] == "()" or number(parts[0]) or parts[0].startswith("\\begin")
        return value(parts[0], depth + 1) if alone else None
    if len(parts) > MAX_ITEMS or not all(parts) or (text[0] + text[-1] not in ("()", "[]") and len(parts) != 2):
        return None
    return Group(text[0] + text[-1], tuple(value(part, depth + 1) for part in parts))  # type: ignore[arg-type]


def _plus_minus(text: str, depth: int) -> Value | None:
    if "\\pm" not in text:
        return None
    plus = re.sub(r"\\pm\s*", "+", text).replace("\\mp", "-")
    minus = re.sub(r"\\pm\s*", "-", text).replace("\\mp", "+")
    return _flat([value(re.sub(r"(^|[({=,])\s*\+", r"\1", plus), depth + 1), value(minus, depth + 1)])


def quantity_or_words(text: str) -> Value:
    """A number or a formula with its unit; a text where it has words in it."""
    found = _quantity(text)
    if found is not None:
        return found
    if _is_prose(text):
        return Words(" ".join(re.sub(r"[^\w\s\\{}^+\-*/=<>:.]", " ", text.casefold()).split()).strip(". "))
    return Quantity(Formula(text))


def _quantity(text: str) -> Quantity | None:
    rest, unit = split_unit(text)
    if unit == NONE:
        return None
    rest = without_end(rest)
    found = number(rest) or (number(rest[1:-1].strip()) if rest[:1] == "(" and encloses(rest) else None)
    if found is not None:
        return Quantity(found, unit)
    if unit.name == "th" or _is_prose(rest) or not re.search(r"[0-9]|\\[a-z]", rest) or len(unit.name) == 1:
        return None
    return Quantity(Formula(rest), unit)


def _is_prose(text: str) -> bool:
    r"""Has a word in it: three letters in a row, \commands and names of functions aside, or a short word alone."""
    bare = _COMMAND.sub(" ", text)
    if bare.strip().lower() in _SHORT_WORDS:
        return True
    return bool(_SMALL_WORD.search(bare)) or any(word.lower() not in _FUNCTION_WORDS for word in _WORD.findall(bare))


def split(text: str, thousands: bool = True) -> list[str]:
    """At commas, semicolons, `and` and `or` outside brackets. In `1,234, 5` the first comma is no separator."""
    if _nested(text):
        return split_at(text, ";")
    text = re.sub(r"\s*,?\s+(?:and|or)\s+|\s*\\(?:lor|vee|text\{or\})\s*", " , ", text)
    if thousands and number(text.strip()):
        return [text.strip()]
    parts = split_at(text.replace(";", ","), ",")
    if thousands and re.search(r"[0-9],[0-9]{3}(?![0-9])", text) and re.search(r"[,;]\s", text.strip()):
        parts = split_at(re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "\x01", text.replace(";", ",")), ",")
        parts = [part.replace("\x01", ",") for part in parts]
    return parts


def split_at(text: str, separator: str) -> list[str]:
    """The parts between separators that no bracket holds."""
    parts, depth, begin, place = [], 0, 0, 0
    while place < len(text):
        character = text[place]
        if depth == 0 and text.startswith(separator, place):
            parts.append(text[begin:place].strip())
            place += len(separator)
            begin = place
            continue
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        place += 1
    return [*parts, text[begin:].strip()]
