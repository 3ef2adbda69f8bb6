"""The problems one by one: which went from wrong to right, which from right to wrong, and what was written.

A problem counts as right if more than half of its samples are.
"""

from typing import Any

from posttrain.reporting.results import Results

CHUNK = 32
"""Problems whose completions the page reads at once."""
MOST_CHARACTERS = 100_000_000
"""Of all completions in a page; longer ones lose their middle."""
HELD_OUT = "held out"
OUTCOMES = ("lost", "gained", "wrong", "right")
"""In the order in which a person looks: from right to wrong, from wrong to right, wrong in both, right in both."""


def right(correct: list[float]) -> bool:
    return share(correct) > 0.5


def share(correct: list[float]) -> float:
    return sum(value > 0.5 for value in correct) / len(correct)


def outcome(before: list[float], after: list[float]) -> str:
    was, now = right(before), right(after)
    if was == now:
        return "right" if now else "wrong"
    return "gained" if now else "lost"


def pairs(results: Results) -> list[tuple[str, str]]:
    """Models to compare, the pair of the claim first."""
    names = list(results.models)
    return [pair for pair in (("sft", "grpo"), ("base", "sft"), ("base", "grpo")) if set(pair) <= set(names)]


def transitions(results: Results) -> list[dict[str, Any]]:
    """For each pair of models, the problems of each outcome, and those with more or fewer samples right."""
    found = []
    for before, after in pairs(results):
        counts = dict.fromkeys((*OUTCOMES, "more", "fewer"), 0)
        for was, now in ((row[before]["correct"], row[after]["correct"]) for row in results.held_out):
            counts[outcome(was, now)] += 1
            counts["more"] += share(now) > share(was)
            counts["fewer"] += share(now) < share(was)
        found.append({"before": before, "after": after, **counts})
    return found


def telling(results: Results, count: int) -> list[dict[str, Any]]:
    """Some problems in full: as many of each outcome as there are, those that got worse first."""
    by_outcome: dict[str, list[dict[str, Any]]] = {name: [] for name in OUTCOMES}
    for row in results.held_out:
        by_outcome[outcome(row["sft"]["correct"], row["grpo"]["correct"])].append(row)
    turns = [(turn, place, row) for place, rows in enumerate(by_outcome.values()) for turn, row in enumerate(rows)]
    chosen = sorted(turns, key=lambda item: item[:2])[:count]
    return [row for _, _, row in sorted(chosen, key=lambda item: (item[1], item[0]))]


def index(results: Results) -> list[dict[str, Any]]:
    """What the page lists and filters by: of each problem its text, and of each sample a few numbers."""
    further = len(results.held_out) < len(results.samples)
    return [
        {
            "id": str(row["id"]),
            "problem": row["problem"],
            "answer": str(row.get("answer", "")),
            "tags": tags(row, further),
            "models": {name: samples(row[name]) for name in results.models},
        }
        for row in results.samples
    ]


def tags(row: dict[str, Any], further: bool) -> list[str]:
    """What else is known of a problem: whether training has seen it, its task where there are further ones, its source
    or difficulty."""
    task = [str(row.get("task", HELD_OUT))] if further else []
    named = [str(row[key]) for key in ("source", "difficulty") if row.get(key) is not None]
    return [*task, *(["contaminated"] if row.get("contaminated") else []), *named]


def samples(row: dict[str, Any]) -> dict[str, list[Any]]:
    none = [None] * len(row["completions"])
    return {
        "correct": [int(value > 0.5) for value in row["correct"]],
        "finished": [int(bool(value)) for value in row["finished"]],
        "differs": row.get("differs", none),
        "lengths": row.get("tokens") or [len(text) for text in row["completions"]],
    }


def chunks(results: Results) -> list[list[dict[str, Any]]]:
    """The completions and their rewards, some problems at a time, in the order of the index."""
    limit = text_limit(
        [len(text) for row in results.samples for name in results.models for text in row[name]["completions"]]
    )
    texts = [
        {
            name: {
                "texts": [shortened(text, limit) for text in row[name]["completions"]],
                "rewards": row[name].get("rewards", []),
            }
            for name in results.models
        }
        for row in results.samples
    ]
    return [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]


def text_limit(sizes: list[int]) -> int:
    """Characters of a completion that the page holds: all, or so many that it stays within what a browser opens."""
    limit = max(sizes, default=0)
    while sum(min(size, limit) for size in sizes) > MOST_CHARACTERS:
        limit = limit * 3 // 4
    return limit


def shortened(text: str, limit: int) -> str:
    """The beginning and the end of a text over the limit."""
    if len(text) <= limit:
        return text
    head, tail = text[: 2 * limit // 3], text[len(text) - limit // 3 :]
    left = len(text) - len(head) - len(tail)
    return f"{head}\n[… {left:,} characters: results/evaluate/samples.jsonl has them …]\n{tail}"


def disagreements(results: Results) -> list[dict[str, Any]]:
    """How often lighteval's own metric says something else, by model and kind of answer."""
    counts: dict[tuple[str, str, bool], int] = {}
    for row in results.held_out:
        for name in results.models:
            for kind, ours in zip(row[name].get("differs", []), row[name]["correct"], strict=False):
                if kind is not None:
                    key = name, str(kind), bool(ours)
                    counts[key] = counts.get(key, 0) + 1
    return [
        {"model": name, "kind": kind, "ours": ours, "count": count}
        for (name, kind, ours), count in sorted(counts.items())
    ]
