"""The kind of a gold: what `prepare.drop_golds` names, and what a difference between two graders is about."""

import re
from typing import Literal

from posttrain.judge.numbers import Number
from posttrain.judge.units import NONE
from posttrain.judge.values import Choice, Group, Named, Quantity, Value, Words, read

Kind = Literal["number", "percent", "unit", "choice", "words", "prose", "several", "interval", "matrix", "formula"]

MAX_WORDS = 4
"""More of them are prose, which nobody writes again word by word."""

PLACEHOLDERS = re.compile(
    r"(?:mcqs?|proof|proved|proven|q\.?e\.?d\.?|see .*|n/?a|null|nan|unknown|todo|refer to .*|shown above|as above"
    r"|not (?:provided|available|given|found)|answers? (?:may |will )?var(?:y|ies))",
    re.IGNORECASE,
)
"""What stands in the answer column where there is no answer."""


def kind_of(gold: str) -> Kind:
    """The kind of a gold as it was written."""
    return _kind(read(gold))


def kind_of_difference(gold: str, answer: str | None) -> str:
    """What a gold and an answer are about that two graders judge differently."""
    if answer is None:
        return "nothing declared"
    kind, told = kind_of(gold), read(answer)
    told = told.value if isinstance(told, Named) else told
    if kind == "number" and not (isinstance(told, Quantity) and isinstance(told.value, Number)):
        return "still to be calculated"
    return kind_of(answer) if kind == "number" else kind


def _kind(value: Value) -> Kind:
    if isinstance(value, Named):
        return _kind(value.value)
    if isinstance(value, Choice):
        return "choice"
    if isinstance(value, Words):
        return "prose" if len(value.text.split()) > MAX_WORDS or PLACEHOLDERS.fullmatch(value.text) else "words"
    if isinstance(value, Group):
        if value.kind in ("matrix", "row"):
            return "matrix"
        return "interval" if value.kind in ("union", "(]", "[)") or value.name else "several"
    if value.unit != NONE:
        return "percent" if dict(value.unit.dimension).keys() == {"share"} else "unit"
    return "number" if isinstance(value.value, Number) else "formula"
