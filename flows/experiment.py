"""The commit that a run is of, and the DVC experiment that a run of agents is afterwards.

Reads   git's HEAD, dvc.yaml, params.yaml, dvc.lock, the outs that DVC does not cache
Writes  a reference in refs/exps/, which `dvc exp show` lists
Run     record("brave-lemur", Path.cwd())
"""

import platform
import re
import tempfile
from pathlib import Path

from flows.command import git
from posttrain.errors import InputError
from posttrain.graph import small_files
from posttrain.paths import LOCK, PARAMS


def commit_of(root: Path) -> str:
    """The commit whose code is in the folder.

    Raises: InputError if tracked code differs from it: only commits travel.
    """
    data = {str(PARAMS), str(LOCK), *small_files(root)}
    changed = git(root, "diff", "--name-only", "HEAD").splitlines()
    if code := [path for path in changed if path not in data]:
        raise InputError(
            str(root), got=f"uncommitted changes of {', '.join(code)}", wanted="a commit", do="commit or stash them"
        )
    return git(root, "rev-parse", "HEAD")


def committed_text(path: Path, root: Path) -> str:
    """A file as the commit has it."""
    return git(root, "show", f"HEAD:{path}") + "\n"


def same_commit(root: Path, wanted: str | None) -> None:
    """Raises: InputError if the code of this clone is not that of the run."""
    here = commit_of(root)
    if wanted not in (None, here):
        raise InputError(
            f"the clone {root} of agent {platform.node()}",
            got=f"commit {here[:10]}",
            wanted=f"commit {wanted[:10]}, that of the run" if wanted else "",
            do=f"there: git fetch && git checkout {wanted}; no restart is needed",
        )


def experiment_name(name: str) -> str:
    """The name of a flow run as git and DVC take it for a reference."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "run"


def record(name: str, root: Path) -> None:
    """A DVC experiment of what the clone now has, in `dvc exp show` under the name; an older one of it is replaced.

    The commit that `dvc exp save` would make. That command refuses a workspace without the models, and this one may
    be without them; `dvc pull` brings them.
    """
    who = {f"GIT_{role}_{what}": "posttrain" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    head = git(root, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", "HEAD", **index)
        paths = [path for path in (str(PARAMS), str(LOCK), *small_files(root)) if (root / path).is_file()]
        git(root, "add", "--force", "--", *paths, **index)
        tree = git(root, "write-tree", **index)
    saved = git(root, "commit-tree", tree, "-p", head, "-m", f"posttrain {name}", **who)
    git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", saved)
