"""Checkpoints that a killed run left, through `posttrain checkpoints`."""

import json
from pathlib import Path

from hypothesis import strategies as st

from tests.surface import faults
from tests.surface.case import Case

FOLDER = ".posttrain/checkpoints"
NAMES = ("step-5", "step-", "step-x", "step-٣", "step-99999999999999999999", "step-²", "step-5\n\x1b[31m", "other")


@st.composite
def cases(draw: st.DrawFn, project: Path) -> Case:
    facts = json.loads((project / "models/sft/manifest.json").read_bytes())
    manifest = {
        "facts": {name: facts.get(name) for name in ("params", "code", "parents", "inputs")},
        "files": {"a": "b"},
        "step": 5,
    }
    found = faults.in_tree(manifest) | faults.of_bytes(json.dumps(manifest).encode()) | faults.of_place("either")
    fault = draw(found)
    stage = draw(st.sampled_from(["sft", "sft", "grpo", "evaluate", "other", "\x1b[31m"]))
    run, step = draw(st.sampled_from(["0123456789abcdef", "x\u202ey"])), draw(st.sampled_from([*NAMES[:1] * 4, *NAMES]))
    path = f"{FOLDER}/{stage}/{run}/{step}/manifest.json"
    return Case(("checkpoints",), f"{path}: {fault.name}", {path: fault.content})


def valid(project: Path) -> st.SearchStrategy[Case]:
    facts = json.loads((project / "models/sft/manifest.json").read_bytes())
    manifest = {
        "facts": {name: facts.get(name) for name in ("params", "code", "parents", "inputs")},
        "files": {},
        "step": 5,
    }
    path = f"{FOLDER}/sft/0123456789abcdef/step-5/manifest.json"
    made = {"none there": {}, "one": {path: json.dumps(manifest).encode()}}
    return st.sampled_from(list(made)).map(lambda name: Case(("checkpoints",), name, made[name], "accepted"))
