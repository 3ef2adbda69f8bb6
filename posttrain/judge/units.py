"""What stands beside a number and calculates nothing: units of measure, money, percent, degrees, and nouns.

A unit of the table has a dimension, so that `1 m` is `100 cm` and no `1 cm`. Any other words beside a number are a
noun, which says what is counted: it contradicts nothing. Standard library only.
"""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

PERCENT = "percent"
DEGREE = "degree"

_F = Fraction
_TABLE: dict[str, tuple[str, Fraction, str]] = {
    name: (dimension, factor, names)
    for dimension, rows in {
        "length": [
            (_F(1), "m meter metre"), (_F(1, 100), "cm centimeter centimetre"),
            (_F(1, 1000), "mm millimeter millimetre"), (_F(1000), "km kilometer kilometre"),
            (_F(254, 10000), "inch inches"), (_F(3048, 10000), "ft foot feet"),
            (_F(9144, 10000), "yd yard"), (_F(1609344, 1000), "mi mile"),
        ],
        "mass": [
            (_F(1, 1000), "g gram"), (_F(1), "kg kilogram"), (_F(1, 10**6), "mg milligram"), (_F(1000), "ton tonne"),
            (_F(45359237, 10**8), "lb lbs pound"), (_F(45359237, 16 * 10**8), "oz ounce"),
        ],
        "time": [
            (_F(1), "s sec second"), (_F(60), "min minute"), (_F(3600), "h hr hour"), (_F(86400), "day"),
            (_F(604800), "week"), (_F(1, 1000), "ms millisecond"),
        ],
        "years": [(_F(1), "month"), (_F(12), "yr year")],
        "volume": [
            (_F(1), "L l liter litre"), (_F(1, 1000), "mL ml milliliter millilitre"),
            (_F(3785411784, 10**9), "gal gallon"),
        ],
        "energy": [(_F(1), "J joule"), (_F(1000), "kJ kilojoule")],
        "force": [(_F(1), "N newton")],
        "power": [(_F(1), "W watt"), (_F(1000), "kW kilowatt")],
        "angle": [(_F(1), "degree deg"), (_F(180), "radian rad")],
        "temperature": [(_F(1), "Celsius"), (_F(1), "Fahrenheit"), (_F(1), "Kelvin")],
        "dollars": [(_F(1), "dollar USD usd buck"), (_F(1, 100), "cent")],
        "euros": [(_F(1), "euro EUR")],
        "sterling": [(_F(1), "GBP")],
        "rupees": [(_F(1), "rupee INR")],
        "yuan": [(_F(1), "yuan")],
        "share": [(_F(1, 100), "percent percentage pct")],
    }.items()
    for factor, names in rows
    for name in names.split()
}  # fmt: skip
_COUNT_NOTHING = {"of", "per", "a", "an", "the", "in", "each", "square", "sq", "cubic", "squared", "cubed", "and"}
_NO_NOUN = {
    *("or", "not", "if", "to", "more", "less", "minus", "plus", "times", "over", "than", "least", "most", "at", "pi"),
    *("sqrt", "half", "sin", "cos", "tan", "log", "ln", "exp", "is", "are", "equals", "equal", "divided", "by", "root"),
    *("multiplied", "mod", "infinity", "true", "false", "yes", "no", "maybe", "about", "approximately", "between"),
    "from",
}
_SYMBOLS = {"\\$": "dollar", "$": "dollar", "€": "euro", "£": "GBP", "₹": "rupee", "¥": "yuan"}
_CURRENCY = re.compile(
    r"^([+-]?)\s*(?:US|USD|EUR|GBP|Rs\.?)?\s*(\\\$|[$€£₹¥])\s*(.+)$|^([+-]?)\s*(USD|EUR|GBP)\s+(.+)$", re.DOTALL
)
_AFTER = re.compile(
    r"""^(?P<value>.*?[0-9.})\]]|.*\\[a-z]+)(?:
        (?P<sign>\s*(?:\\\$|[€£₹¥]))
      | (?P<ordinal>\s*\^?\s*\{?\s*(?:st|nd|rd|th)\s*\}?)(?![a-zA-Z]) (?P<what>(?:\s+[a-zA-Z]{3,})*)
      | (?P<degree>\s*\^\\circ\s*(?:[CF](?![a-zA-Z]))?)
      | (?P<percent>\s*%)(?P<of>(?:\s+[a-zA-Z]+)*)
      | (?P<words>\s*\(?\s*[a-zA-Z][a-zA-Z.]*(?:[\s/\-().]|\^\s*(?:[23]|\{\s*[23]\s*\})|\\cdot|[a-zA-Z])*)
    )$""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Unit:
    """Factor and dimension; a noun has neither."""

    name: str
    factor: Fraction = Fraction(1)
    dimension: tuple[tuple[str, int], ...] = ()

    @property
    def measures(self) -> bool:
        return bool(self.dimension)


NONE = Unit("")


def split_unit(text: str) -> tuple[str, Unit]:
    """A text without the unit before or after it, and the unit; NONE where there is none."""
    found = _CURRENCY.match(text)
    if found:
        name = _SYMBOLS.get(found[2] or "", found[5] or "")
        rest = (found[1] or found[4] or "") + (found[3] or found[6]).strip()
        value, unit = split_unit(rest)
        if unit.measures and dict(unit.dimension).keys() != {_TABLE[name][0]}:
            return rest, _unit(name)
        return value, _unit(name)
    found = _AFTER.match(text)
    if found is None:
        return text, NONE
    value = found["value"].strip()
    if found["sign"]:
        return value, _unit(_SYMBOLS[found["sign"].strip()])
    if found["ordinal"]:
        return value, Unit("th")
    if found["degree"]:
        scale = found["degree"].strip()[-1]
        return value, _unit({"C": "Celsius", "F": "Fahrenheit"}.get(scale, DEGREE))
    if found["percent"]:
        return value, _unit(PERCENT)
    words = read_unit(found["words"], attached=not found["words"][0].isspace())
    return (text, NONE) if words is None else (value, words)


def _unit(name: str) -> Unit:
    dimension, factor, _ = _TABLE[name]
    return Unit(name, factor, ((dimension, 1),))


def read_unit(words: str, attached: bool) -> Unit | None:
    """The unit that words are; a noun where the table lacks one of them; None for what is no unit."""
    words = " ".join(re.sub(r"[(){}]", " ", words.replace("-", " ").replace("\\cdot", " ")).split())
    names = re.findall(r"[a-zA-Z]+", words)
    if not names or any(name.lower() in _NO_NOUN for name in names):
        return None
    known = _product(words)
    if known is not None:
        return None if attached and len(words) == 1 else known
    nouns = [name for name in names if name.lower() not in _COUNT_NOTHING]
    if not nouns:
        return None
    if attached and not words.startswith(("square", "cubic")) and not _entry(nouns[0]):
        return None
    return Unit(words.lower()) if all(len(name) > 2 or _entry(name) for name in nouns) else None


def _product(words: str) -> Unit | None:
    """`square cm`, `cm ^2`, `km/h`, `miles per hour`; None if a word is not in the table."""
    words = words.replace("mph", "miles per hour").replace("kph", "km per hour").replace("/", " per ")
    factor, powers, sign, power, last = Fraction(1), Counter[str](), 1, 1, ""
    for token in re.findall(r"[a-zA-Z]+|\^\s*[23]", words):
        if token == "per":
            sign = -1
        elif token in ("square", "sq", "cubic"):
            power = 3 if token == "cubic" else 2
        elif token in ("squared", "cubed") or token[0] == "^":
            extra = (2 if token == "squared" else 3 if token == "cubed" else int(token[-1])) - 1
            if not last:
                return None
            dimension, size = _entry(last) or ("", Fraction(1))
            powers[dimension] += sign * extra
            factor *= size ** (sign * extra)
        else:
            entry = _entry(token)
            if entry is None:
                return None
            powers[entry[0]] += sign * power
            factor *= entry[1] ** (sign * power)
            last, power = token, 1
    dimension_ = tuple(sorted((name, count) for name, count in powers.items() if count))
    return Unit(words, factor, dimension_) if dimension_ else None


def _entry(name: str) -> tuple[str, Fraction] | None:
    for spelling in (name, name.lower() if len(name) > 2 else name):
        for stem in (spelling, spelling.removesuffix("s") if len(spelling) > 3 else spelling):
            if stem in _TABLE:
                return _TABLE[stem][:2]
    return None
