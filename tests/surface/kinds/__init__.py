"""The kinds of input: each module has `cases(project)`, a strategy of cases in a project whose stages have run, and
`valid(project)`, cases of inputs that are as they should be.
"""

from pathlib import Path

from hypothesis import strategies as st

from tests.surface.case import Case
from tests.surface.kinds import (
    arguments,
    checkpoints,
    data,
    environment,
    flow_parameters,
    graph,
    manifests,
    models,
    own_rewards,
    params,
    questions,
    recipes,
    reward_files,
)

KINDS = {
    "params.yaml": params,
    "recipes": recipes,
    "data": data,
    "reward files": reward_files,
    "own rewards": own_rewards,
    "models": models,
    "manifests and results": manifests,
    "checkpoints": checkpoints,
    "environment": environment,
    "arguments": arguments,
    "flow parameters": flow_parameters,
    "dvc.yaml": graph,
    "questions to chat": questions,
}

SLOW = {"data": 4, "models": 2, "own rewards": 8}
"""What fraction of the examples a kind gets whose cases start processes or load a model."""

VALID = 5
"""One case of so many is of an input that is as it should be, until all of these were tried: what refuses everything
is no reader.
"""


def cases_of(kind: str, project: Path) -> st.SearchStrategy[Case]:
    wrong, right = KINDS[kind].cases(project), KINDS[kind].valid(project)
    return st.integers(1, VALID).flatmap(lambda drawn: right if drawn == VALID else wrong)
