"""recipes/NAME.yaml, and the name of one."""

from pathlib import Path

from hypothesis import strategies as st

from posttrain.params.file import read_yaml
from tests.surface import faults
from tests.surface.case import Case
from tests.surface.kinds.params import lax


def cases(project: Path) -> st.SearchStrategy[Case]:
    tree, text = read_yaml(project / "params.yaml"), (project / "params.yaml").read_bytes()
    found = faults.in_tree(tree, lax, nan=".nan") | faults.of_bytes(text) | faults.of_place()
    applied = found.map(lambda one: Case(("recipe", "odd"), one.name, {"recipes/odd.yaml": one.content}, one.expected))
    listed = (faults.of_bytes(text) | faults.of_place("either")).map(
        lambda one: Case(("recipe",), one.name, {"recipes/odd.yaml": one.content})
    )
    named = st.text(st.characters(exclude_characters="\0"), max_size=300).map(
        lambda name: Case(("recipe", "--", name), "a name of a recipe")
    )
    return applied | listed | named


def valid(project: Path) -> st.SearchStrategy[Case]:
    overlays = {
        "one key": b"# One key.\nseed: 7\n",
        "a section": b"# A section.\ngrpo:\n  beta: 0.02\n  num_generations: 16\n",
        "CR LF": b"# One key.\r\nseed: 7\r\n",
        "the one that ships": (project / "recipes/tiny.yaml").read_bytes(),
    }
    return st.builds(
        lambda name, argv: Case(argv, name, {"recipes/odd.yaml": overlays[name]}, "accepted"),
        st.sampled_from(list(overlays)),
        st.sampled_from([("recipe", "odd"), ("recipe",)]),
    )
