"""Who comes second waits, and says for whom.

Run  with held(root / WORKSPACE_LOCK, print): ...
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from posttrain.paths import LOCKS
from posttrain.processes import lock

WORKSPACE_LOCK = LOCKS / "workspace.lock"


def held(path: Path, on_line: Callable[[str], None]) -> AbstractContextManager[None]:
    """Hold the lock, when its holder has let go of it."""
    return lock.held(path, lambda holder: on_line(f"waiting for process {holder}, which holds {path}"))
