"""What may differ between two equal runs: seconds, machine, commit.

Writes  .posttrain/runs/<stage>.json, which nothing tracks
"""

import os
import platform
import subprocess
from typing import Any

from posttrain.outputs.facts import OUTS
from posttrain.outputs.manifest import MANIFEST, sha256, write_json
from posttrain.paths import RUN_LOG


def log_run(stage: str, **facts: Any) -> None:
    """Seconds, machine, and commit of this run, in a file that no DVC stage tracks."""
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    manifest = OUTS[stage] / MANIFEST
    wrote = {"manifest": sha256(manifest)} if manifest.is_file() else {}
    write_json(RUN_LOG / f"{stage}.json", {"stage": stage, "machine": machine, "git": git_state(), **wrote, **facts})


def git_state() -> dict[str, Any] | None:
    """The commit, and whether tracked files other than results differ from it; None outside a repository."""
    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!results")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
