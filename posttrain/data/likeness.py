"""The rules that see through other words: near-duplicates, and problems of evaluation sets among the training problems.

What looks like another problem without being it is left alone and listed: problems of one template, near-duplicates
with another gold, and what `prepare.keep_contaminated` lets stay.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.data.contamination import Contamination, contamination
from posttrain.data.near_duplicates import Found, Pair, near_duplicates
from posttrain.data.problems import TEST, TRAIN, LeftOut, Problems, Rule, held_out
from posttrain.data.shingles import Texts, plain, tokens
from posttrain.data.sources import load
from posttrain.data.table import batches
from posttrain.params.schema import HELD_OUT, Columns, EvaluationSet, Prepare


@dataclass(frozen=True)
class Named:
    """An evaluation set, or the rows that are held out."""

    name: str
    texts: list[str]
    rows: list[int] | None
    """Of the held-out problems their rows."""


class Likeness:
    """Rules that share the tokens of all problems."""

    def __init__(self, params: Prepare, folder: Path) -> None:
        self.params, self.folder = params, folder
        self._words: Texts | None = None

    def rules(self) -> Iterator[Rule]:
        if self.params.near_duplicates is not None:
            reason = "near-duplicates (prepare.near_duplicates)"
            yield Rule("near-duplicate", reason, self.near_duplicates)
        yield Rule("contaminated", "with a problem of an evaluation set (prepare.decontaminate)", self.contaminated)

    def words(self, problems: Problems) -> Texts:
        if self._words is None:
            self._words = Texts(problems.texts)
        return self._words

    # -----------------------------------------------------------------------------------------------------------------
    # Near-duplicates

    def near_duplicates(self, problems: Problems) -> Iterator[LeftOut]:
        """All but one problem of those with the same gold in each group; a test set of its own stays as it is."""
        assert self.params.near_duplicates is not None
        rows = problems.rows(None if problems.table.test is None else TRAIN)
        found = near_duplicates(self.words(problems).take(rows), self.params.near_duplicates)
        groups: dict[int, list[int]] = defaultdict(list)
        for place, first in enumerate(found.groups):
            groups[first].append(rows[place])
        several = [members for members in groups.values() if len(members) > 1]
        if problems.table.test is None:
            self._to_one_side(problems, several)
        similarity = {(rows[pair.first], rows[pair.second]): pair.similarity for pair in found.pairs}
        for members in several:
            for part in (TEST, TRAIN):
                yield from left_out(problems, [row for row in members if problems.part[row] == part], similarity)
        note_templates(problems, rows, found)

    def _to_one_side(self, problems: Problems, groups: Iterable[list[int]]) -> None:
        """A group is held out, or trains, as the smallest of its keys says: in any order of the rows."""
        for members in groups:
            split = [row for row in members if problems.uses[row] != "sft"]
            if split:
                chosen = held_out(min(problems.keys[row] for row in split), self.params.test_frac)
                problems.part[split] = TEST if chosen else TRAIN

    # -----------------------------------------------------------------------------------------------------------------
    # Contamination

    def contaminated(self, problems: Problems) -> Iterator[LeftOut]:
        """Training problems that hold a problem of an evaluation set, whichever is the first that they hold."""
        rows, gone = problems.rows(TRAIN), set[int]()
        words = self.words(problems).take(rows)
        for named in self.evaluation_sets(problems):
            test = Texts(named.texts, words.vocabulary)
            found = contamination(words, test)
            note_overlaps(problems, rows, named, found, keep=named.name in self.params.keep_contaminated)
            if named.name in self.params.keep_contaminated:
                continue
            for overlap in found.overlaps:
                row = rows[overlap.train]
                if row not in gone:
                    gone.add(row)
                    note = f"{named.name} {overlap.test}: {overlap.share:.2f} of its word trigrams"
                    yield LeftOut(row, note, like=named.texts[overlap.test])

    def evaluation_sets(self, problems: Problems) -> Iterator[Named]:
        for one in self.params.decontaminate:
            if isinstance(one, EvaluationSet):
                yield Named(one.name, problems_of(one, self.params, self.folder), None)
            else:
                rows = problems.rows(TEST)
                yield Named(HELD_OUT, [problems.texts[row] for row in rows], rows)


def left_out(problems: Problems, members: list[int], similarity: dict[tuple[int, int], float]) -> Iterator[LeftOut]:
    """Of near-duplicates with the same gold all but the first: for GRPO before SFT alone, with a gold before none."""
    kept: list[int] = []
    golds = {row: spelled(problems.golds[row]) for row in members}
    for row in sorted(members, key=lambda row: (problems.uses[row] == "sft", not golds[row], problems.keys[row])):
        same = [other for other in kept if golds[row] == golds[other] or "" in (golds[row], golds[other])]
        like = next(iter(same or kept), row)
        found = similarity.get((min(row, like), max(row, like)))
        if same:
            note = "through others" if found is None else f"Jaccard index {found:.2f}"
            yield LeftOut(row, note, like=problems.texts[like])
            continue
        if kept:
            problems.note("another-gold", "near-duplicates with another gold, kept", row, problems.texts[like], found)
        kept.append(row)


def spelled(gold: str) -> str:
    """A gold without marks and case; as it is if nothing else is left."""
    return " ".join(filter(None, map(plain, tokens(gold)))) or gold


def note_templates(problems: Problems, rows: list[int], found: Found) -> None:
    pairs: list[Pair] = sorted(found.templates, key=lambda pair: (-pair.similarity, pair.first, pair.second))
    for pair in pairs:
        first, second = rows[pair.first], rows[pair.second]
        problems.note("template", "of a template with others, kept", second, problems.texts[first], pair.similarity)


def note_overlaps(problems: Problems, rows: list[int], named: Named, found: Contamination, keep: bool) -> None:
    """Lists what stays; of held-out problems that stay in training, their rows say so."""
    templates = sorted(found.templates, key=lambda overlap: (-overlap.share, overlap.train, overlap.test))
    for overlap in templates:
        reason = f"of a template with problems of {named.name}, kept"
        text = named.texts[overlap.test]
        problems.note(f"template-of-{named.name}", reason, rows[overlap.train], text, overlap.share)
    for overlap in found.overlaps if keep else ():
        reason = f"with a problem of {named.name}, kept (prepare.keep_contaminated)"
        text = named.texts[overlap.test]
        problems.note(f"kept-from-{named.name}", reason, rows[overlap.train], text, overlap.share)
        if named.rows is not None:
            problems.contaminated.add(named.rows[overlap.test])


def problems_of(one: EvaluationSet, params: Prepare, folder: Path) -> list[str]:
    """The problems of an evaluation set, read as training data is.

    Raises: InputError
    """
    columns = Columns(problem=one.column, solution=None, answer=None, keep=[])
    same: dict[str, Any] = {"dataset": one.path, "config": None, "revision": None, "layout": "columns"}
    split = {"train_split": one.split, "test_split": None}
    config = params.model_copy(update=same | split | {"columns": columns, "answer_pattern": None})
    place = folder / f"evaluation-{one.name}"
    place.mkdir(parents=True, exist_ok=True)
    data = load(config, one.split, place)
    return [text for batch in batches(data, ["problem"]) for text in batch["problem"] if text]
