"""params.yaml."""

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
