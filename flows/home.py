"""The pull step of prefect.yaml: a flow run of an agent works in the agent's clone.

Reads   POSTTRAIN_HOME; without it, the clone is the one that this module is imported from
Run     by a Prefect worker, before each flow run

Prefect's own set_working_directory would take the folder from the machine that deploys, wherever it has the variable.
"""

import os
from pathlib import Path


def enter() -> dict[str, str]:
    """Change into the clone, which is kept between runs: it has DVC's cache and the checkpoints that a retry needs."""
    home = Path(os.environ.get("POSTTRAIN_HOME") or Path(__file__).parents[1])
    os.chdir(home)
    return {"directory": str(home)}
