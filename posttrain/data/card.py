"""The data card: what came in, what each rule left out, what is left. In the manifest, and as card.md to read."""

from collections import Counter
from typing import Any

from posttrain.data.problems import TEST, TRAIN, Problems
from posttrain.data.traces import Traces, bin_of

SHOWN = 60


def card(problems: Problems, traces: Traces) -> dict[str, Any]:
    """Counts by source and split, and how long texts are."""
    texts = [problems.texts[row] for row in problems.rows()]
    return {
        "sources": by_source(problems),
        "problem_chars": histogram(Counter(bin_of(len(text)) for text in texts)),
        "trace_chars": histogram(traces.lengths),
        "without_conclusion": traces.without_conclusion,
    }


def by_source(problems: Problems) -> list[dict[str, Any]]:
    """For each source and split: its rows, and how many became problems, were merged or left out."""
    counts: Counter[tuple[str, int, str]] = Counter()
    for row, source in enumerate(problems.sources):
        fate = "kept" if problems.fate[row] == -1 else "merged" if problems.into[row] != -1 else "left_out"
        counts[source, int(problems.part[row]), fate] += 1
    found = []
    for source in dict.fromkeys(problems.sources):
        for part, name in ((TRAIN, "train"), (TEST, "test")):
            fates = {fate: counts[source, part, fate] for fate in ("kept", "merged", "left_out")}
            if rows := sum(fates.values()):
                found.append({"source": source, "split": name, "rows": rows, **fates})
    return found


def histogram(bins: Counter[int]) -> list[dict[str, int]]:
    edges = [1 << power for power in range(6, max(bins).bit_length())] if bins else []
    return [{"below": edge, "number": bins[edge]} for edge in edges if edge >= min(bins)]


def markdown(manifest: dict[str, Any]) -> str:
    """card.md."""
    rows, about = manifest["rows"], manifest["card"]
    text = (
        "# Data card\n\n"
        f"{rows['train']:,} training problems, {rows['sft']:,} traces, {rows['test']:,} held-out problems. Made by "
        f"`posttrain prepare`; what became of a row: `posttrain data --why SOURCE:ROW`, an id, or a problem's text.\n\n"
        "## Sources\n\n" + source_lines(manifest["params"]["prepare"])
    )
    text += "\n" + table([list(item.values()) for item in about["sources"]], list(about["sources"][0]))
    text += "\n`merged`: one problem with another row, which has its traces too.\n"
    for title, name in (("Rules", "rules"), ("Rules for traces", "trace_rules")):
        told = [rule for rule in manifest[name] if rule["in"]]
        lines = [[rule["name"], rule["in"], rule["left_out"], rule["out"], rule["reason"]] for rule in told]
        text += f"\n## {title}\n\n" + table(lines, ["rule", "in", "left out", "out", "left out are those"])
        text += "".join(examples(rule) for rule in told if rule["examples"])
    if kept := manifest.get("kept"):
        lines = [[noted["name"], noted["rows"], noted["reason"]] for noted in kept]
        text += "\n## Worth a look\n\nNothing of this is left out.\n\n" + table(lines, ["name", "rows", "they are"])
        text += "".join(examples(noted, "Kept") for noted in kept)
    for title, name in (("Problems", "problem_chars"), ("Traces", "trace_chars")):
        text += f"\n## {title} by characters\n\n```\n{bars(about[name])}\n```\n"
    if number := about["without_conclusion"]:
        text += f"\n{number:,} traces state no conclusion that can be compared with the gold.\n"
    return text


def source_lines(prepare: dict[str, Any]) -> str:
    """Names and revisions, as params give them."""
    named = prepare["dataset"] if isinstance(prepare["dataset"], list) else [prepare]
    keys = ("dataset", "config", "revision", "licence")
    return "".join(f"- {', '.join(f'{key} {item[key]}' for key in keys if item.get(key))}\n" for item in named)


def examples(rule: dict[str, Any], did: str = "Left out") -> str:
    keys = {"row": "row", "problem": "problem", "note": "note", "into_problem": "one with", "like": "like"}
    lines = [[cell(item.get(key, "")) for key in keys] for item in rule["examples"]]
    used = [number for number in range(len(keys)) if any(line[number] for line in lines)]
    heads = [list(keys.values())[number] for number in used]
    title = f"\n{did} {rule['reason']}, for example:\n\n"
    return title + table([[line[number] for number in used] for line in lines], heads)


def cell(text: str) -> str:
    """On one line of a table, with nothing in it that Markdown or a terminal would act on."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def table(rows: list[list[Any]], heads: list[str]) -> str:
    lines = [[f"{value:,}" if isinstance(value, int) else str(value) for value in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [heads, ["---"] * len(heads), *lines])


def bars(found: list[dict[str, int]]) -> str:
    most = max((item["number"] for item in found), default=1)
    return "\n".join(
        f"below {item['below']:>9,}  {item['number']:>9,}  {'#' * -(-item['number'] * SHOWN // most)}".rstrip()
        for item in found
    )
