"""The project as a clone of it would be, with the recipe of seconds among the others."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "tests/pipeline/seconds.yaml"


def copy_project(target: Path) -> None:
    """The files that git knows or would add, without what a run of the stages has made."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("results/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    shutil.copy(RECIPE, target / "recipes")
