"""Parameters of the Prefect flow, as its program takes them."""

from pathlib import Path

from hypothesis import strategies as st

from posttrain.params.file import read_yaml
from tests.surface import faults
from tests.surface.case import Case

WORDS = (
    "",
    "=",
    "a",
    "=1",
    "seed=",
    "seed=1",
    "a.b.c=1",
    "seed.x=1",
    "grpo=1",
    ".=1",
    "..=1",
    "rewards.x=1",
    "\x1b[31m=1",
)


@st.composite
def cases(draw: st.DrawFn, project: Path) -> Case:
    keys = [".".join(map(str, at)) for at in faults.places(read_yaml(project / "params.yaml"))]
    value = draw(faults.odd_values().filter(lambda one: len(one.text) < 120_000 and "\\u0000" not in one.text))
    pair = f"{draw(st.sampled_from(keys))}={value.text}"
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
    argv = draw(
        st.sampled_from(
            [
                ["--set", pair],
                ["--set", pair],
                ["--set", draw(st.sampled_from(WORDS) | text)],
                ["--set", pair, pair],
                ["--recipe", draw(st.sampled_from(["tiny", "tutorial", "../params", "\x1b[31m", "x" * 5000]) | text)],
                ["--recipe", "tutorial", "--set", pair],
                ["--timeout-s", draw(st.sampled_from(["nan", "-1", "0", "inf", "x", "1e999"]))],
                ["--force", draw(text)],
                [draw(text)],
            ]
        )
    )
    return Case(tuple(argv), value.name, program="flow")


VALID = (
    ("--set", "seed=7"),
    ("--set", "grpo.beta=0.02", "sft.max_steps=100"),
    ("--set", "grpo.learning_rate=1e-05"),
    ("--set", "prompts.system=null"),
    ("--recipe", "tiny"),
    ("--recipe", "tiny", "--set", "seed=7"),
)


def valid(project: Path) -> st.SearchStrategy[Case]:
    return st.sampled_from(VALID).map(lambda argv: Case(argv, "as they should be", {}, "accepted", program="flow"))
