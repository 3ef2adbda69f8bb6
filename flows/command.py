"""Commands of git and DVC whose output is an answer."""

import os
import subprocess
import sys
from pathlib import Path

from posttrain.errors import PosttrainError


def git(folder: Path, *arguments: str, **environment: str) -> str:
    return command(folder, "git", *arguments, **environment)


def dvc(folder: Path, *arguments: str) -> str:
    return command(folder, sys.executable, "-m", "dvc", *arguments)


def command(folder: Path, *arguments: str, **environment: str) -> str:
    """What a command writes to its standard output, without the last line's end.

    Raises: PosttrainError with what it writes to the other, if it fails.
    """
    env = {**os.environ, **environment}
    done = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise PosttrainError(f"`{' '.join(arguments)}` failed in {folder}:\n{done.stderr.strip()}")
    return done.stdout.removesuffix("\n")
