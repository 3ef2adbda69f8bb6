"""Problems of evaluation sets that are among the training problems, in the same words or in others.

A training problem holds a test problem where it has a share of the test problem's shingles (posttrain/data/shingles.py)
and its numbers and operators, next to each other and in their order; of a SHORT test problem it has to have all words
in a row. So a test problem is found inside a longer text. Other numbers make another problem, with another answer: such
pairs are of one template, listed and never left out.

An inverted index gives the candidates: what holds a share s of n shingles has one of the rarest n - ceil(s n) + 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from posttrain.data.shingles import (
    SHORT,
    Hashes,
    Ints,
    Shingles,
    Texts,
    View,
    among,
    demands,
    mixed,
    ngrams,
    sorted_once,
)

Floats = NDArray[np.float64]
MayHold = Callable[[Ints, Ints], NDArray[np.bool_]]

SHARE = 0.5
"""Share of a test problem's shingles that is enough, with its numbers."""
SHORTEST = 3
"""Words below which a test problem has to be the whole of a training problem."""
TEMPLATE = 0.6
"""Share of a test problem's shingles, numbers and names blank, in a problem of its template."""
BATCH = 200_000
"""Pairs compared at a time."""
COMMON = 200
"""Training problems that have a part of a template; one of more says too little of a pair."""
BEGINNINGS = (1, 2, 4, 8)
"""Numbers and operators at the beginning of a test problem that are looked up in all training problems, before words
are compared: as many as it has."""
HITS = 5_000_000
"""Candidates collected at a time."""


@dataclass(frozen=True)
class Overlap:
    train: int
    test: int
    share: float
    """Share of the test problem's shingles, the highest of those of the views."""


@dataclass(frozen=True)
class Contamination:
    overlaps: list[Overlap]
    """A test problem in a training problem, in the order of the training problems."""
    templates: list[Overlap]
    """Of one template, with other numbers."""


def contamination(train: Texts, test: Texts, share: float = SHARE) -> Contamination:
    """What of `test` the texts of `train` hold. Whether a pair is an overlap depends on its two texts alone."""
    numbers = Numbers(train, test)
    demand = demands(test, share)
    overlaps: dict[tuple[int, int], float] = dict.fromkeys(short_problems(train, test), 1.0)
    views: tuple[View, ...] = ("words", "names")
    for view in views:
        for pair, found in contained(train.shingles(view), test.shingles(view), demand, numbers.may_hold):
            if numbers.hold(*pair):
                overlaps[pair] = max(found, overlaps.get(pair, 0.0))
    templates = {pair: found for pair, found in _templates(train, test).items() if pair not in overlaps}
    return Contamination(*([Overlap(*pair, found[pair]) for pair in sorted(found)] for found in (overlaps, templates)))


def _templates(train: Texts, test: Texts) -> dict[tuple[int, int], float]:
    """Of equal problems, numbers and names blank, the first; of others all that have a rare part in common."""
    demand = np.full(len(test), TEMPLATE)
    found = dict(contained(train.shingles("numbers"), test.shingles("numbers"), demand, None))
    wholes, first = np.unique(train.wholes("numbers"), return_index=True)
    of_test = test.wholes("numbers")
    places = np.minimum(np.searchsorted(wholes, of_test), len(wholes) - 1) if len(wholes) else of_test[:0]
    equal = np.flatnonzero(wholes[places] == of_test[: len(places)])
    return found | {(int(first[places[row]]), int(row)): 1.0 for row in equal}


def contained(
    train: Shingles, test: Shingles, demand: Floats, may_hold: MayHold | None
) -> Iterator[tuple[tuple[int, int], float]]:
    """Pairs of a training and a test text, the first with what share of the second's shingles the second demands.

    Where nothing tells beforehand that a pair cannot be, parts that are COMMON among the training texts find none.
    """
    hashes = sorted_once(test.hashes)
    train_sets, test_sets = _sets(train, hashes), _sets(test, hashes)
    shown_by = np.bincount(train_sets.indices, minlength=len(hashes))
    prefixes = _rarest(test_sets, shown_by, demand, len(train_sets.indices) if may_hold else COMMON)
    for pairs in _candidates(train_sets, prefixes):
        likely = pairs if may_hold is None else pairs[may_hold(pairs[:, 0], pairs[:, 1])]
        for begin in range(0, len(likely), BATCH):
            some = likely[begin : begin + BATCH]
            share = _shares(train_sets, test_sets, some)
            enough = share >= demand[some[:, 1]]
            yield from zip(map(tuple, some[enough].tolist()), share[enough].tolist(), strict=True)


def _sets(shingles: Shingles, hashes: Hashes) -> csr_array:
    """A row for each text, a column for each of the hashes, 1 where the text has it."""
    known = among(shingles.hashes, hashes)
    columns = np.searchsorted(hashes, shingles.hashes[known])
    keys = sorted_once((shingles.rows[known] << 32) | columns)
    starts = np.searchsorted(keys, np.arange(shingles.count + 1) << 32)
    return csr_array(
        (np.ones(len(keys), np.int32), keys & 0xFFFFFFFF, starts), shape=(shingles.count, max(1, len(hashes)))
    )


def _rarest(tests: csr_array, shown_by: Ints, demand: Floats, most: int) -> csr_array:
    """Of every test problem the members that fewest training problems have, one of which a share of them holds."""
    sizes = np.diff(tests.indptr)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((tests.indices, shown_by[tests.indices], rows))
    rows, columns = rows[order], tests.indices[order]
    prefixes = sizes - np.ceil(demand * sizes - 1e-9).astype(np.int64) + 1
    kept = np.arange(len(rows)) - tests.indptr[:-1][rows] < prefixes[rows]
    kept &= (shown_by[columns] > 0) & (shown_by[columns] <= most)
    return csr_array((np.ones(kept.sum(), np.int32), (rows[kept], columns[kept])), shape=tests.shape)


def _candidates(train: csr_array, prefixes: csr_array) -> Iterator[Ints]:
    """Pairs that share a member of the test problem's prefix, a row for each, some millions at a time."""
    by_member = prefixes.T.tocsr()
    hits = np.diff(by_member.indptr)[train.indices]
    until = np.concatenate([[0], np.cumsum(hits)])[train.indptr]
    begin = 0
    while begin < train.shape[0]:
        end = max(begin + 1, int(np.searchsorted(until, until[begin] + HITS, side="right")) - 1)
        common = (train[begin:end] @ by_member).tocoo()
        yield np.column_stack([common.row.astype(np.int64) + begin, common.col.astype(np.int64)])
        begin = end


def _shares(train: csr_array, test: csr_array, pairs: Ints) -> Floats:
    of_test = test[pairs[:, 1]]
    shares: Floats = train[pairs[:, 0]].multiply(of_test).sum(axis=1) / np.diff(of_test.indptr)
    return shares


class Numbers:
    """Numbers and operators of training and test problems."""

    def __init__(self, train: Texts, test: Texts) -> None:
        self.train, self.train_starts = numbers_of(train)
        self.test, self.test_starts = numbers_of(test)
        self.beginnings = np.array([0, *BEGINNINGS])[
            np.searchsorted(BEGINNINGS, np.diff(self.test_starts), side="right")
        ]
        rows = np.repeat(np.arange(len(train)), np.diff(self.train_starts))
        self.held = {
            length: np.sort(grams ^ mixed(rows[: len(grams)].astype(np.uint64)))
            for length in BEGINNINGS
            for grams in [ngrams(self.train, length)]
        }

    def may_hold(self, train: Ints, test: Ints) -> NDArray[np.bool_]:
        """For each pair, whether the first few of the test problem's are in the training problem, or run into the next
        one: quick, and never False where `hold` is True."""
        found = np.ones(len(train), bool)
        for length, held in self.held.items():
            pairs = np.flatnonzero(self.beginnings[test] == length)
            wanted = ngrams(self.test, length)[self.test_starts[test[pairs]]] ^ mixed(train[pairs].astype(np.uint64))
            found[pairs] = among(wanted, held)
        return found

    def hold(self, train: int, test: int) -> bool:
        """Whether the training problem has those of the test problem, in a row."""
        held = self.train[self.train_starts[train] : self.train_starts[train + 1]].tolist()
        wanted = self.test[self.test_starts[test] : self.test_starts[test + 1]].tolist()
        width = len(wanted)
        return any(held[i : i + width] == wanted for i in range(len(held) - width + 1))


def numbers_of(texts: Texts) -> tuple[Hashes, Ints]:
    """Hashes of the numbers and operators of all texts, one after the other, and where those of each begin."""
    content = texts.content()
    return texts.hashes("words")[content], np.concatenate([[0], np.cumsum(content)])[texts.starts]


def short_problems(train: Texts, test: Texts) -> list[tuple[int, int]]:
    """Pairs where the training problem has all words of a SHORT test problem in a row, and no number or operator next
    to them, which would make it part of a longer formula."""
    lengths = test.lengths
    wholes = train.hashes("words")
    operators = np.concatenate([train.content(), [False]])
    pairs: list[tuple[int, int]] = []
    for length in range(1, SHORT):
        of_length = np.flatnonzero(lengths == length)
        if not len(of_length):
            continue
        grams = ngrams(wholes, length)
        rows = np.repeat(np.arange(len(train)), train.lengths)[: len(grams)]
        wanted = ngrams(test.hashes("words"), length)[test.starts[of_length]]
        places = np.flatnonzero(among(grams, np.sort(wanted)))
        rows = rows[places]
        first, last = places == train.starts[rows], places + length == train.starts[rows + 1]
        alone = (first | ~operators[places - 1]) & (last | ~operators[np.minimum(places + length, len(operators) - 1)])
        alone &= places + length <= train.starts[rows + 1]
        alone &= (first & last) | (length >= SHORTEST)
        by_gram = {gram: of_length[wanted == gram].tolist() for gram in np.unique(wanted)}
        for row, gram in zip(rows[alone].tolist(), grams[places[alone]], strict=True):
            pairs += [(row, each) for each in by_gram[gram]]
    return pairs
