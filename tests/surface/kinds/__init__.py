"""The kinds of input: each module has `cases(project)`, a strategy of cases in a project whose stages have run."""

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
