"""What stages wrote and others may have edited, merged or cut: manifests, metrics, curves, samples, tables."""

import json
from pathlib import Path

from hypothesis import strategies as st

from tests.surface import faults
from tests.surface.case import Case

READERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "data/prepared/manifest.json": (
        ("data",),
        ("verify",),
        ("lineage",),
        ("gate",),
        ("report",),
        ("data", "--why", "x"),
    ),
    "data/prepared/card.md": (("data",),),
    "data/prepared/fates.parquet": (("data", "--why", "x"),),
    "data/prepared/train.jsonl": (("verify",), ("gate",), ("check",)),
    "data/prepared/sft.jsonl": (("check",),),
    ".posttrain/runs/sft.json": (("report",),),
    "data/prepared/test.jsonl": (("report",), ("gate",)),
    "models/sft/manifest.json": (("verify",), ("lineage",), ("gate",)),
    "models/grpo/manifest.json": (("verify",), ("lineage",), ("gate",), ("chat", "--ask", "2 + 2")),
    "results/sft/metrics.json": (("lineage",), ("report",)),
    "results/sft/curve.tsv": (("report",),),
    "results/grpo/metrics.json": (("lineage",),),
    "results/grpo/curve.tsv": (("report",),),
    "results/grpo/health.json": (("report",),),
    "results/grpo/samples.jsonl": (("rewards", "results/grpo/samples.jsonl"),),
    "results/grpo/completions.parquet": (("rewards", "results/grpo/completions.parquet"),),
    "results/grpo/difficulty.parquet": (("data",),),
    "results/evaluate/manifest.json": (
        ("gate",),
        ("report",),
        ("lineage",),
        ("compare", "workspace:sft", "workspace:grpo"),
    ),
    "results/evaluate/metrics.json": (
        ("gate",),
        ("report",),
        ("lineage",),
        ("compare", "workspace:sft", "workspace:grpo"),
    ),
    "results/evaluate/samples.jsonl": (("report",), ("compare", "workspace:sft", "workspace:grpo"), ("gate",)),
}


@st.composite
def cases(draw: st.DrawFn, project: Path) -> Case:
    name = draw(st.sampled_from([name for name in READERS if (project / name).is_file()]))
    valid = (project / name).read_bytes()
    found = faults.of_bytes(valid) | faults.of_place("either")
    if name.endswith(".json"):
        tree = json.loads(valid)
        found |= faults.in_tree(tree) | faults.in_tree(tree)
    elif name.endswith(".jsonl"):
        first, _, rest = valid.partition(b"\n")
        found |= faults.in_tree(json.loads(first)).map(
            lambda one: one._replace(content=b" ".join(bytes(one.content).split(b"\n")) + b"\n" + rest)  # type: ignore[arg-type]
        )
    elif name.endswith(".tsv"):
        cells = st.sampled_from(["", "nan", "inf", "\x1b[31m", "1\t2", "9" * 5000, "text", "\u202e"])
        found |= cells.map(lambda cell: faults.Fault(f"a cell {cell[:20]!r}", valid + cell.encode() + b"\n", "either"))
    fault = draw(found)
    return Case(draw(st.sampled_from(READERS[name])), f"{name}: {fault.name}", {name: fault.content}, "either")


def valid(project: Path) -> st.SearchStrategy[Case]:
    """Each file as it is, through each of its readers that has nothing else to complain of: the data have
    no row `x`, and `verify` compares the code as well.
    """
    readers = [(name, argv) for name, all_of in READERS.items() for argv in all_of if (project / name).is_file()]
    return st.sampled_from([(name, argv) for name, argv in readers if argv[0] != "verify" and "--why" not in argv]).map(
        lambda one: Case(one[1], f"{one[0]}: unchanged", {one[0]: (project / one[0]).read_bytes()}, "accepted")
    )
