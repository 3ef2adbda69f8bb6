"""The judge's word on golds, each distinct one asked once, also by a prepare that goes on after a kill."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.data.progress import progress
from posttrain.judge.kinds import Kind, kind_of
from posttrain.judge.verifier import Verifier

ASKED = 512
"""Golds in one question to the pool; what is written down between two of them survives a kill."""


class Golds:
    """Verdicts that a file remembers, one a line."""

    def __init__(self, verifier: Verifier, file: Path) -> None:
        self.verifier, self.file = verifier, file
        self._kinds: dict[str, Kind | None] = {}
        self._agree: dict[tuple[str, str], bool | None] = {}
        for gold, answer, found in known(file):
            if answer is None:
                self._kinds[gold] = found
            else:
                self._agree[gold, answer] = found

    def kinds(self, golds: Sequence[str]) -> dict[str, Kind | None]:
        """The kind of each gold; None for one that no answer can meet."""
        unknown = [gold for gold in dict.fromkeys(golds) if gold not in self._kinds]
        for start in progress(range(0, len(unknown), ASKED), "golds judged", ASKED):
            some = unknown[start : start + ASKED]
            readable = self.verifier.readable(some)
            found = {gold: kind_of(gold) if can else None for gold, can in zip(some, readable, strict=True)}
            self._kinds |= found
            self._note([(gold, None, kind) for gold, kind in found.items()])
        return self._kinds

    def agree(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Is the second of a pair an answer that the first, a gold, accepts? None for no verdict in time."""
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._agree]
        found = self.verifier.agreements(unknown)
        self._agree |= dict(zip(unknown, found, strict=True))
        self._note([(*pair, verdict) for pair, verdict in zip(unknown, found, strict=True)])
        return [self._agree[pair] for pair in pairs]

    def classes(self, written: Sequence[str]) -> dict[str, str]:
        """For each gold the first of those that are equal to it."""
        found: dict[str, str] = {}
        for gold in written:
            firsts = list(dict.fromkeys(found.values()))
            verdicts = self.agree([(first, gold) for first in firsts])
            found[gold] = next((first for first, equal in zip(firsts, verdicts, strict=True) if equal), gold)
        return found

    def _note(self, rows: list[tuple[str, str | None, Any]]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def known(file: Path) -> list[list[Any]]:
    """What an earlier prepare noted; a last line that it was killed in does not count, and is cut off."""
    if not file.is_file():
        return []
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        file.write_bytes(whole)
    return [json.loads(line) for line in whole.decode().split("\n") if line]
