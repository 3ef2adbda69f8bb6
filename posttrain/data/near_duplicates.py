"""Problems that are one in other words, and problems of one template.

Two problems are near-duplicates where they have the same numbers and operators in the same order, and of the shingles
(posttrain/data/shingles.py) that either has, both have a share: the Jaccard index. Other numbers make another problem,
with another answer: such pairs are templates, listed and never left out.

The pairs are found by an exact join, not by chance as with MinHash: two sets with a Jaccard index of t share one of the
rarest n - ceil(t n) + 1 members of each (prefix filtering: Chaudhuri et al. 2006, Bayardo et al. 2007). Only texts that
share one of these are compared. The numbers are part of a shingle's hash there, so that ten thousand problems of one
template are no candidates for each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from posttrain.data.shingles import Ints, Shingles, Texts, View, demands, sorted_once

Floats = NDArray[np.float64]

WINDOW = 32
"""Texts after a text, of those that share a rare shingle, that it is compared with: what keeps the time linear where a
shingle is in very many. They are ordered by length and by a hash of their words, so that equal ones are neighbours."""
BATCH = 200_000
"""Pairs compared at a time."""
TEMPLATE = 0.8
"""Jaccard index of two problems of one template, numbers and names blank."""
TEMPLATE_WINDOW = 4
"""The window for these, which may be everywhere and are only shown."""


@dataclass(frozen=True)
class Pair:
    first: int
    """The earlier of the two texts."""
    second: int
    similarity: float
    """Jaccard index, the highest of those of the views."""


@dataclass(frozen=True)
class Found:
    groups: list[int]
    """For each text the first of those that it is one with, directly or through others: itself where it is alone."""
    pairs: list[Pair]
    """Near-duplicates that were compared, as many as connect the groups at least; equal texts are no pair here."""
    templates: list[Pair]
    """Of one template, and not of one group."""


@dataclass(frozen=True)
class Joined:
    """Pairs of texts by their numbers, and the Jaccard index of each."""

    left: Ints
    right: Ints
    index: Floats


def near_duplicates(words: Texts, similarity: float) -> Found:
    """The same groups for any order of the texts, on any machine."""
    # Equal texts once, in an order of their own: the window must not depend on that of the file.
    _, order, equal = np.unique(words.wholes(), return_index=True, return_inverse=True)
    content = words.wholes(only=words.content())
    views: tuple[View, ...] = ("words", "names")
    demand = demands(words, similarity)[order]
    alike = _highest([join(_ordered(words.shingles(view, content), order), demand) for view in views], len(order))
    group = _components(alike, len(order))
    templates = _highest([_templates(words, order)], len(order))
    apart = group[templates.left] != group[templates.right]
    _, first = np.unique(group[equal], return_index=True)
    return Found(
        first[group[equal]].tolist(),
        _pairs(alike, order),
        _pairs(Joined(templates.left[apart], templates.right[apart], templates.index[apart]), order),
    )


def _templates(words: Texts, order: Ints) -> Joined:
    """Texts that are equal or alike with blanks for numbers and names: of equal ones each and the next."""
    _, first, which = np.unique(words.wholes("numbers")[order], return_index=True, return_inverse=True)
    in_order = np.argsort(which, kind="stable")
    left, right = in_order[:-1], in_order[1:]
    equal = which[left] == which[right]
    others = join(_ordered(words.shingles("numbers"), order[first]), np.full(len(first), TEMPLATE), TEMPLATE_WINDOW)
    return Joined(
        np.concatenate([left[equal], first[others.left]]),
        np.concatenate([right[equal], first[others.right]]),
        np.concatenate([np.ones(equal.sum()), others.index]),
    )


def _ordered(shingles: Shingles, order: Ints) -> Shingles:
    """Those of the texts in `order`, which become 0, 1, 2…"""
    place = np.full(shingles.count, -1)
    place[order] = np.arange(len(order))
    rows = place[shingles.rows]
    return Shingles(rows[rows >= 0], shingles.hashes[rows >= 0], len(order))


def _highest(joined: Sequence[Joined], count: int) -> Joined:
    """Each pair once, with its highest index."""
    left, right = (np.concatenate([getattr(one, side) for one in joined]) for side in ("left", "right"))
    index = np.concatenate([one.index for one in joined])
    keys, which = np.unique(np.minimum(left, right) * count + np.maximum(left, right), return_inverse=True)
    highest = np.zeros(len(keys))
    np.maximum.at(highest, which, index)
    return Joined(*np.divmod(keys, count), highest)


def _components(joined: Joined, count: int) -> Ints:
    """A number for each text, the same for those that pairs connect."""
    edges = coo_array((np.ones(len(joined.left), np.int8), (joined.left, joined.right)), shape=(count, count))
    labels: Ints = connected_components(edges, directed=False)[1].astype(np.int64)
    return labels


def _pairs(joined: Joined, order: Ints) -> list[Pair]:
    """Pairs of positions in the file, in its order."""
    left, right = order[joined.left], order[joined.right]
    ends = zip(np.minimum(left, right).tolist(), np.maximum(left, right).tolist(), joined.index.tolist(), strict=True)
    return sorted((Pair(*end) for end in ends), key=lambda pair: (pair.first, pair.second))


def join(shingles: Shingles, demand: Floats, window: int = WINDOW) -> Joined:
    """Sets whose Jaccard index is what the one demands at least; sets with shingles in common demand the same."""
    sets, prefix_rows, prefix_ranks = _by_rarity(shingles, demand)
    sizes = np.diff(sets.indptr)
    order = np.lexsort((prefix_rows, sizes[prefix_rows], prefix_ranks))
    rows, ranks = prefix_rows[order], prefix_ranks[order]
    found = [np.empty(0, np.int64)]
    for distance in range(1, window + 1):
        together = ranks[distance:] == ranks[:-distance]
        if not together.any():
            break
        left, right = rows[:-distance][together], rows[distance:][together]
        fits = sizes[left] >= demand[left] * sizes[right]
        left, right = left[fits], right[fits]
        found.append(sorted_once(np.minimum(left, right) * shingles.count + np.maximum(left, right)))
    keys = sorted_once(np.concatenate(found))
    left, right = np.divmod(keys, shingles.count)
    index = np.concatenate(
        [np.empty(0), *(_jaccard(sets, left[i : i + BATCH], right[i : i + BATCH]) for i in range(0, len(left), BATCH))]
    )
    alike = index >= demand[left]
    return Joined(left[alike], right[alike], index[alike])


def _by_rarity(shingles: Shingles, demand: Floats) -> tuple[csr_array, Ints, Ints]:
    """The sets as rows of a matrix, a shingle's column being the higher the more texts have it, and of every set the
    rarest members, one of which a set like it shares."""
    hashes, which, counts = np.unique(shingles.hashes, return_inverse=True, return_counts=True)
    by_count = np.argsort(counts, kind="stable")
    ranks = np.empty(len(hashes), np.int64)
    ranks[by_count] = np.arange(len(hashes))
    keys = sorted_once((shingles.rows << 32) | ranks[which])
    del which
    rows, columns = keys >> 32, keys & 0xFFFFFFFF
    sizes = np.bincount(rows, minlength=shingles.count)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    sets = csr_array((np.ones(len(keys), np.int32), columns, starts), shape=(shingles.count, max(1, len(hashes))))
    prefixes = sizes - np.ceil(demand * sizes - 1e-9).astype(np.int64) + 1
    shared = counts[by_count][columns] > 1
    in_prefix = shared & (np.arange(len(keys)) - starts[rows] < prefixes[rows])
    return sets, rows[in_prefix], columns[in_prefix]


def _jaccard(sets: csr_array, left: Ints, right: Ints) -> Floats:
    sizes = np.diff(sets.indptr)
    both = sets[left].multiply(sets[right]).sum(axis=1)
    index: Floats = both / (sizes[left] + sizes[right] - both)
    return index
