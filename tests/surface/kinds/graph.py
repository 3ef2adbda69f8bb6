"""dvc.yaml."""

from pathlib import Path

from hypothesis import strategies as st

from posttrain.params.file import read_yaml
from tests.surface import faults
from tests.surface.case import Case, Program

COMMANDS: tuple[tuple[Program, tuple[str, ...]], ...] = (
    ("flow", ("prepare",)),
    ("posttrain", ("gate",)),
    ("posttrain", ("check",)),
    ("posttrain", ("checkpoints",)),
    ("posttrain", ("relock",)),
)


def cases(project: Path) -> st.SearchStrategy[Case]:
    tree = read_yaml(project / "dvc.yaml")
    stages = {"stages": tree["stages"]}
    found = faults.in_tree(stages) | faults.of_bytes((project / "dvc.yaml").read_bytes()) | faults.of_place("either")
    return st.builds(
        lambda fault, command: Case(
            command[1], fault.name, {"dvc.yaml": fault.content}, fault.expected, program=command[0]
        ),
        found,
        st.sampled_from(COMMANDS),
    )


def valid(project: Path) -> st.SearchStrategy[Case]:
    text = (project / "dvc.yaml").read_bytes()
    forms = {"unchanged": text, "comments": b"# of ours\n" + text, "CR LF": text.replace(b"\n", b"\r\n")}
    return st.builds(
        lambda name, command: Case(command[1], name, {"dvc.yaml": forms[name]}, "accepted", program=command[0]),
        st.sampled_from(list(forms)),
        st.sampled_from([("flow", ("prepare",)), ("posttrain", ("gate",)), ("posttrain", ("checkpoints",))]),
    )
