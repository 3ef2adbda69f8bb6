"""Regular expressions of params.yaml on texts of strangers, with a bound on their time.

A pattern that goes back over its own steps, such as `(\\w+\\s?)+$`, takes longer than the universe has on a text of a
hundred letters. The module `regex` reads what `re` reads and can be told to stop.
"""

import regex

from posttrain.data.columns import printable
from posttrain.data.readers import refused

PATTERN_S = 2.0
"""Seconds for one text; a pattern of use takes microseconds."""


class Bounded:
    """A compiled pattern."""

    def __init__(self, key: str, pattern: str) -> None:
        self.key = key
        self.pattern = regex.compile(pattern)

    def group(self, text: str) -> str | None:
        """Group 1 of the first match; None without one."""
        try:
            match = self.pattern.search(text, timeout=PATTERN_S)
        except TimeoutError:
            raise self._slow(text) from None
        return None if match is None else match[1]

    def cut(self, text: str) -> str:
        """The text without its matches."""
        try:
            return str(self.pattern.sub("", text, timeout=PATTERN_S))
        except TimeoutError:
            raise self._slow(text) from None

    def _slow(self, text: str) -> Exception:
        return refused(
            f"params.yaml: {self.key}",
            f"no end after {PATTERN_S:.0f} s on a text of {len(text)} characters: {printable(text, 60)}",
            "a pattern that goes forward, such as [^x]* in place of .*, and no repetition within a repetition",
            "mend the pattern",
        )
