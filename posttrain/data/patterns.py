"""Regular expressions of params.yaml on texts of strangers, with a bound on their time.

A pattern that goes back over its own steps, such as `(\\w+\\s?)+$`, takes longer than the universe has on a text of a
hundred letters. The module `regex` reads what `re` reads and can be told to stop.
"""

from collections.abc import Callable
from typing import Any

import regex

from posttrain.data.columns import printable
from posttrain.data.readers import refused
from posttrain.errors import InputError

PATTERN_S = 2.0
"""Seconds for one text; a pattern of use takes microseconds."""


class Bounded:
    """A compiled pattern, used like one of `re`."""

    def __init__(self, key: str, pattern: str) -> None:
        self.key = key
        self.pattern = regex.compile(pattern)

    def search(self, text: str) -> Any:
        """The first match, or None."""
        try:
            return self.pattern.search(text, timeout=PATTERN_S)
        except TimeoutError:
            raise self._slow(text) from None

    def sub(self, replacement: str | Callable[[Any], str], text: str) -> str:
        """The text with its matches replaced."""
        try:
            return str(self.pattern.sub(replacement, text, timeout=PATTERN_S))
        except TimeoutError:
            raise self._slow(text) from None

    def _slow(self, text: str) -> InputError:
        return refused(
            f"params.yaml: {self.key}",
            f"no end after {PATTERN_S:.0f} s on a text of {len(text)} characters: {printable(text, 60)}",
            "a pattern that goes forward, such as [^x]* in place of .*, and no repetition within a repetition",
            "mend the pattern",
        )
