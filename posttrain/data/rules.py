"""The rules that leave rows out: faults, golds that nothing can meet, duplicates, what the test set has too."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from posttrain.data.golds import Golds
from posttrain.data.problems import TEST, TRAIN, LeftOut, Problems, Rule
from posttrain.judge.kinds import Kind

CANNOT_READ = "unreadable-gold"


def faulty() -> Rule:
    return Rule("fault", "that cannot be used", lambda problems: (LeftOut(r, n) for r, n in problems.faults.items()))


def without_a_match() -> Rule:
    """Rows whose answer `answer_pattern` does not match."""

    def decide(problems: Problems) -> Iterator[LeftOut]:
        return (LeftOut(row) for row in problems.unmatched if problems.fate[row] == -1)

    return Rule("no-match", "without a match of prepare.answer_pattern", decide)


def without_a_gold() -> Rule:
    """Rows that GRPO or the evaluation would score, and no gold to score them by."""

    def decide(problems: Problems) -> Iterator[LeftOut]:
        return (LeftOut(row) for row in problems.rows() if not problems.golds[row] and problems.uses[row] != "sft")

    return Rule("no-gold", "without a gold answer", decide)


def long(limit: int) -> Rule:
    """Rows whose shortest solution has more characters; without a solution there is nothing to measure."""

    def decide(problems: Problems) -> Iterator[LeftOut]:
        for first, batch in problems.table.stream("solutions"):
            for row, solutions in enumerate(batch["solutions"], first):
                shortest = min(map(len, solutions), default=0)
                if shortest > limit and problems.fate[row] == -1:
                    yield LeftOut(row, f"{shortest} characters")

    return Rule("long", "with a solution longer than prepare.max_solution_chars", decide)


def gold_rules(golds: Golds, kinds: Iterable[Kind]) -> list[Rule]:
    """Golds that no answer can meet, and those of kinds to leave out: other rewards would be noise."""

    def judged(kind: Kind | None) -> Callable[[Problems], Iterator[LeftOut]]:
        def decide(problems: Problems) -> Iterator[LeftOut]:
            rows = [row for row in problems.rows() if problems.golds[row]]
            verdicts = golds.kinds([problems.golds[row] for row in rows])
            return (LeftOut(row, problems.golds[row]) for row in rows if verdicts[problems.golds[row]] == kind)

        return decide

    unreadable = Rule(CANNOT_READ, "with a gold that the judge cannot read", judged(None))
    return [
        unreadable,
        *(Rule(f"{kind}-gold", f"with a gold that is {kind} (prepare.drop_golds)", judged(kind)) for kind in kinds),
    ]


def duplicates() -> Rule:
    """All but the first of the problems of a part that are equal but for case and white space; one for GRPO comes
    before those for SFT alone, one with a gold before those without."""

    def decide(problems: Problems) -> Iterator[LeftOut]:
        for part in (TEST, TRAIN):
            rows, first = problems.rows(part), dict[bytes, int]()
            for row in sorted(rows, key=lambda row: (problems.uses[row] == "sft", not problems.golds[row])):
                first.setdefault(problems.keys[row], row)
            yield from (LeftOut(r, "", into) for r in rows if (into := first[problems.keys[r]]) != r)

    return Rule("duplicate", "duplicates", decide)


def conflicting_golds(golds: Golds) -> Rule:
    """Of equal problems of a part with different golds those whose gold is not the one of more than half; all if none
    is."""

    def decide(problems: Problems) -> Iterator[LeftOut]:
        groups: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for row in problems.rows(TEST) + problems.rows(TRAIN):
            if problems.golds[row]:
                groups[int(problems.part[row]), problems.keys[row]].append(row)
        for rows in groups.values():
            written = list(dict.fromkeys(problems.golds[row] for row in rows))
            if len(written) > 1:
                yield from minority(problems, rows, golds.classes(written))

    return Rule("conflicting-gold", "duplicates with another gold than most, or than each other", decide)


def minority(problems: Problems, rows: list[int], classes: dict[str, str]) -> Iterator[LeftOut]:
    votes: dict[str, int] = defaultdict(int)
    for row in rows:
        votes[classes[problems.golds[row]]] += 1
    chosen = next((gold for gold, number in votes.items() if 2 * number > len(rows)), None)
    told = ", ".join(f"{gold} {number} times" for gold, number in votes.items())
    for row in rows:
        if classes[problems.golds[row]] != chosen:
            yield LeftOut(row, f"{problems.golds[row]}; in all: {told}")


def in_the_test_set() -> Rule:
    """Training problems that are equal to one of the test set but for case and white space."""

    def decide(problems: Problems) -> Iterator[LeftOut]:
        keys = {problems.keys[row] for row in problems.rows(TEST)}
        return (LeftOut(row) for row in problems.rows(TRAIN) if problems.keys[row] in keys)

    return Rule("in-test-set", "training problems that are in the test set", decide)


def beyond(part: int, limit: int | None) -> Rule:
    """All but `limit` problems, chosen by a hash of their text: the same ones for every seed and file order."""

    def decide(problems: Problems) -> Iterator[LeftOut]:
        return (LeftOut(row) for row in ordered(problems, part)[limit:]) if limit is not None else iter(())

    name = "max_test" if part == TEST else "max_train"
    return Rule(f"beyond-{name}", f"beyond prepare.{name}", decide)


def ordered(problems: Problems, part: int) -> list[int]:
    """The order of what prepare writes."""
    return sorted(problems.rows(part), key=problems.keys.__getitem__)
