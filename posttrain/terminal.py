"""Text that somebody else wrote, on a terminal: without power over it. Standard library only."""

import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

BIDIRECTIONAL = {"\u061c", "\u200e", "\u200f", *map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))}
"""They let text read otherwise than it is written."""


def harmful(character: str) -> bool:
    # Control characters, halves of surrogate pairs, line and paragraph separators.
    category = unicodedata.category(character)
    return character != "\n" and (category in {"Cc", "Cs", "Zl", "Zp"} or character in BIDIRECTIONAL)


def spelt(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def harmless(text: str) -> str:
    """Whatever is no visible character, no line break and no tab, spelt out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(spelt(c) if c != "\t" and harmful(c) else c for c in text)


class Harmless:
    """A stream of text that spells out what would act on the terminal, whatever file it came from."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(harmless(text))

    def writelines(self, lines: list[str]) -> None:
        self._stream.writelines(map(harmless, lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def harmless_output() -> Iterator[None]:
    """Standard output and error of this process, each a stream that is Harmless."""
    with redirect_stdout(cast(TextIO, Harmless(sys.stdout))), redirect_stderr(cast(TextIO, Harmless(sys.stderr))):
        yield
