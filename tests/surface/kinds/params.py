"""params.yaml."""

import json
from pathlib import Path

from hypothesis import strategies as st

from posttrain.params.file import read_yaml
from tests.surface import faults
from tests.surface.case import Case

COMMANDS = (("launch", "--show"), ("launch", "--show"), ("checkpoints",), ("gate",), ("check",))

UNIONS = {("prepare", "dataset"), ("launch", "processes"), ("evaluate", "tasks")}
"""Places that take values of several kinds."""


def lax(at: faults.Path_) -> bool:
    return at[:2] in UNIONS or at[-1] == "trl" or "rewards" in at or any(isinstance(key, int) for key in at)


def cases(project: Path) -> st.SearchStrategy[Case]:
    tree, text = read_yaml(project / "params.yaml"), (project / "params.yaml").read_bytes()
    found = faults.in_tree(tree, lax, nan=".nan") | faults.of_bytes(text, "refused") | faults.of_place()
    return st.builds(
        lambda fault, argv: Case(argv, fault.name, {"params.yaml": fault.content}, fault.expected),
        found,
        st.sampled_from(COMMANDS),
    )


def valid(project: Path) -> st.SearchStrategy[Case]:
    """The same params as another editor writes them, and others in their range."""
    text, tree = (project / "params.yaml").read_bytes(), read_yaml(project / "params.yaml")
    written = {
        "unchanged": text,
        "CR LF": text.replace(b"\n", b"\r\n"),
        "a byte order mark": b"\xef\xbb\xbf" + text,
        "comments": b"# \xc3\xa9\n---\n" + text + b"\n# the end\n",
        "JSON": json.dumps(tree).encode(),
        "sections in another order": json.dumps(dict(reversed(tree.items()))).encode(),
    }
    others = {("seed",): "7", ("grpo", "learning_rate"): "1e-05", ("sft", "max_steps"): "100", ("grpo", "beta"): "0"}
    written |= {f"{at[-1]} {value}": faults.with_value(tree, at, value) for at, value in others.items()}
    shown = st.sampled_from([("launch", "--show"), ("checkpoints",)])
    return st.builds(
        lambda name, argv: Case(argv, name, {"params.yaml": written[name]}, "accepted"),
        st.sampled_from(list(written)),
        shown,
    ) | st.sampled_from([("check",), ("gate",)]).map(
        lambda argv: Case(argv, "unchanged", {"params.yaml": text}, "accepted")
    )
