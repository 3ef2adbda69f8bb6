"""The command that installs a package into the environment that runs."""

import os
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

OWN_UV = Path(".posttrain/uv/bin/uv")
"""Where `make setup` puts uv if the machine has none."""


def install(*requirements: str) -> str:
    """One that works as it stands: `make setup` makes an environment without pip."""
    folder = Path.cwd()
    python = Path(sys.executable)
    shown = str(python.relative_to(folder) if python.is_relative_to(folder) else python)
    uv = shutil.which("uv") or (str(OWN_UV) if os.access(OWN_UV, os.X_OK) else "uv")
    tool = [shown, "-m", "pip", "install"] if find_spec("pip") else [uv, "pip", "install", "--python", shown]
    return shlex.join([*tool, *requirements])
