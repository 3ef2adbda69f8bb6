"""Problems as sets of word n-grams (shingles), for telling when two of them are one.

What a copy changes without changing the problem is left out: case, white space, punctuation, LaTeX marks (`$`,
`\\left`), `Solve the following problem.` before and `Let's think step by step` after it. Numbers and operators stay. A
problem has three views: the words as they are; with a blank for whatever begins with a capital, since copies rename
people and points; with a blank for numbers too, which makes problems of one template equal.

A word's hash is BLAKE2's and the arithmetic is that of 64-bit integers: the same on every machine, in every release.
"""

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

View = Literal["words", "names", "numbers"]
Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

NGRAM = 3
"""Words of a shingle."""
SHORT = 8
"""Words below which a problem is compared as a whole: it has too few shingles for a share of them to say anything."""

RICH = 3
"""Numbers and operators in a text that are seldom the same, in the same order, in another problem."""
RICH_FRAC = 0.6
"""Part of the demanded share of shingles that is enough beside them."""

MARKS = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|q?quad|text(?:bf|it|rm)?|math(?:rm|bf|it|sf)"
    r"|operatorname)(?![a-zA-Z])|\\[,;:! ()\[\]{}$]"
)
FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
BEFORE = re.compile(
    r"(?:\s*(?:(?:problem|question|exercise|task)\s*\d*\s*[.:)]|\d{1,4}\s*[.)]\s|"
    r"(?:please\s+)?(?:solve|answer)\s+(?:the\s+following|this)\s+(?:math\w*\s+)?(?:problem|question|exercise|task)\b"
    r"(?:\s+step\s+by\s+step|\s+carefully)?\s*[.:!]?))+",
    re.IGNORECASE,
)
AFTER = re.compile(
    r"(?:(?:please\s+|let['’]?s\s+)?(?:reason|think)\s+step\s+by\s+step|"
    r"(?:please\s+)?(?:put|give|write|provide|enclose|return)\s+(?:your|the)\s+final\s+answer\b).*",
    re.IGNORECASE | re.DOTALL,
)
AFTER_CHARS = 200
"""Characters at the end in which instructions are looked for."""

HYPHEN = re.compile(r"(?<=[^\W\d_]{2})\s?[-–/]\s?(?=[^\W\d_]{2})")
"""Between words of two letters or more; between others it is a minus or a division."""
TOKEN = re.compile(
    r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
    r"|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # scripts without spaces: each character
    r"|\\[a-zA-Z]+|[^\W\d_]+(?:['’][^\W\d_]+)*"
    r"|(?<=[\d)])!|\*\*|[-+*/=<>()|%−–×·÷≤≥≠±√]"
)
SAME = {
    **{"−": "-", "–": "-", "\\times": "*", "\\cdot": "*", "×": "*", "·": "*", "\\div": "/", "÷": "/", "\\pm": "±"},
    **{"\\le": "≤", "\\leq": "≤", "\\ge": "≥", "\\geq": "≥", "\\ne": "≠", "\\neq": "≠", "\\sqrt": "√", "sqrt": "√"},
    **{"\\lt": "<", "\\gt": ">", "%": "percent", "\\mid": "|", "**": ""},
}
UNITS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# Not "one", which stands for a thing more often than for a number.
NUMBER_WORDS = {word: str(n) for n, word in enumerate(UNITS, 2)} | {word: f"{n}0" for n, word in enumerate(TENS, 2)}
OPERATORS = frozenset("-+*/=<>≤≥≠±√!")
NUMBER_BLANK, NAME_BLANK = "0", "¤"


class Vocabulary:
    """Numbers of the tokens met so far, and what each is in every view."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.hashes: dict[View, array[int]] = {"words": array("Q"), "names": array("Q"), "numbers": array("Q")}
        self.numbers = array("b")
        self.content = array("b")

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of the tokens; those that are only a mark are left out."""
        ids = self.ids
        return [number for token in tokens if (number := ids[token] if token in ids else self._add(token)) >= 0]

    def _add(self, token: str) -> int:
        word = plain(token)
        number = len(self.numbers) if word else -1
        self.ids[token] = number
        if not word:
            return -1
        is_number = word[0].isdigit()
        named = NAME_BLANK if token[0].isupper() else word
        for view, seen in (("words", word), ("names", named), ("numbers", NUMBER_BLANK if is_number else named)):
            self.hashes[view].append(hash_of(seen))  # type: ignore[index]
        self.numbers.append(is_number)
        self.content.append(is_number or word in OPERATORS)
        return number


def plain(token: str) -> str:
    """The token in lower case, one spelling for what has several; empty for a mark."""
    word = SAME.get(token, token)
    if word[:1].isdigit() or word[:1] == ".":
        word = word.replace(",", "")
        whole, _, decimals = word.partition(".")
        decimals = decimals.rstrip("0")
        return f"{whole.lstrip('0') or '0'}{'.' if decimals else ''}{decimals}"
    if word.startswith("\\"):
        return "" if word.endswith("frac") else word[1:].lower()
    word = word.lower().replace("'", "").replace("’", "")
    return NUMBER_WORDS.get(word, word)


def hash_of(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def tokens(text: str) -> list[str]:
    """Words, numbers, operators and brackets of a problem, as they are written, without instructions around it."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.replace("½", " 1/2"))
    if "\\" in text:
        text = FRACTION.sub(r" \1 / \2 ", MARKS.sub("", text))
    before = BEFORE.match(text)
    if before is not None and before.end() < len(text):
        text = text[before.end() :]
    after = AFTER.search(text, max(0, len(text) - AFTER_CHARS))
    if after is not None and after.start() > 0:
        text = text[: after.start()]
    return TOKEN.findall(HYPHEN.sub(" ", text))


@dataclass(frozen=True)
class Shingles:
    """Shingles of many texts: the text of each, in ascending order, and its hash. A text's repetitions are in it."""

    rows: Ints
    hashes: Hashes
    count: int
    """Texts, with those that have no shingle."""


class Texts:
    """Many problems as tokens, 4 bytes each."""

    def __init__(self, texts: Iterable[str], vocabulary: Vocabulary | None = None) -> None:
        self.vocabulary = vocabulary or Vocabulary()
        ids, starts = array("I"), array("q", [0])
        for text in texts:
            ids.extend(self.vocabulary.encode(tokens(text)))
            starts.append(len(ids))
        self.ids = np.frombuffer(ids, np.uint32) if ids else np.empty(0, np.uint32)
        self.starts: Ints = np.frombuffer(starts, np.int64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: Sequence[int]) -> "Texts":
        """Those of the given numbers, in their order."""
        some = Texts((), self.vocabulary)
        chosen = np.asarray(rows, np.int64)
        lengths = self.lengths[chosen]
        some.starts = np.concatenate([[0], np.cumsum(lengths)])
        some.ids = self.ids[np.arange(some.starts[-1]) + np.repeat(self.starts[chosen] - some.starts[:-1], lengths)]
        return some

    @property
    def lengths(self) -> Ints:
        return np.diff(self.starts)

    def hashes(self, view: View) -> Hashes:
        """The hash of every token."""
        return np.frombuffer(self.vocabulary.hashes[view], np.uint64)[self.ids]

    def content(self) -> NDArray[np.bool_]:
        """Whether a token is a number or an operator."""
        return np.frombuffer(self.vocabulary.content, np.int8)[self.ids] > 0

    def wholes(self, view: View = "words", only: NDArray[np.bool_] | None = None) -> Hashes:
        """A hash of each text's tokens in their order, or of those that `only` marks."""
        rows = np.repeat(np.arange(len(self)), self.lengths)
        hashes = self.hashes(view)
        if only is not None:
            rows, hashes = rows[only], hashes[only]
        counts = np.bincount(rows, minlength=len(self))
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        sums = np.zeros(len(self), np.uint64)
        np.add.at(sums, rows, mixed(hashes ^ mixed(places.astype(np.uint64))))
        return mixed(sums + counts.astype(np.uint64))

    def shingles(self, view: View, salts: Hashes | None = None) -> Shingles:
        """Those of the texts that are not SHORT; with a salt for each text, texts with other salts share none."""
        hashes = ngrams(self.hashes(view), NGRAM)
        rows = np.repeat(np.arange(len(self)), self.lengths)[: len(hashes)]
        inside = (np.arange(len(hashes)) + NGRAM <= self.starts[1:][rows]) & (self.lengths >= SHORT)[rows]
        rows, hashes = rows[inside], hashes[inside]
        return Shingles(rows, hashes if salts is None else mixed(hashes ^ salts[rows]), len(self))


def demands(words: Texts, share: float) -> NDArray[np.float64]:
    """The share of shingles in common that each text demands of another: less of one with RICH numbers, which the other
    has too."""
    numbers = np.concatenate([[0], np.cumsum(words.content())])
    return np.where(np.diff(numbers[words.starts]) >= RICH, RICH_FRAC * share, share)


def mixed(values: Hashes) -> Hashes:
    """Each value scattered over 64 bits (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def ngrams(hashes: Hashes, n: int) -> Hashes:
    """A hash for each n tokens in a row, texts run together."""
    length = max(0, len(hashes) - n + 1)
    grams = np.zeros(length, np.uint64)
    for place in range(n):
        grams = mixed(grams * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + length])
    return grams


def sorted_once(values: NDArray[Any]) -> NDArray[Any]:
    """Each value once, ascending. `np.unique` has a hash table for this, ten times slower on millions of hashes."""
    values = np.sort(values)
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    return values[first]


def among(values: NDArray[Any], ascending: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each of the values is one of the others."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    found: NDArray[np.bool_] = ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values
    return found
