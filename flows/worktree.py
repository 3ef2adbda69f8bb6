"""A run with other params than those of the commit: in a git worktree of its own, kept as a DVC experiment.

Reads   dvc.yaml, params.yaml, recipes/, what git does not carry of the stages' inputs, DVC's cache
Writes  .posttrain/worktrees/NAME/ while it runs, an experiment NAME in the end, .posttrain/reports/NAME.html
Run     with workspace(Path.cwd(), None, {"grpo.beta": 0.02}, ["grpo"], print) as space: ...

NAME has a hash of the commit and of the params. A worktree whose run did not end well stays, so that the same command
goes on there from its checkpoints. The cache is shared: what equals an earlier run is restored.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.command import dvc, git
from flows.lock import held
from posttrain.errors import InputError
from posttrain.graph import given_inputs, small_files
from posttrain.inputs import link_completions, link_inputs
from posttrain.params.recipes import overlaid
from posttrain.paths import GRAPH, LOCKS, PARAMS, RECIPES, REPORT, REPORTS, WORKTREES

# Git's and DVC's own references are shared by all worktrees: one at a time.
REFERENCES_LOCK = LOCKS / "references.lock"
MADE = Path(".posttrain/made")
READ_BY_ALL = (GRAPH, PARAMS, RECIPES, Path("stages"), Path("posttrain"), Path(".dvc/config"))


@dataclass(frozen=True)
class Workspace:
    """Where the stages run; `experiment` is None in the folder of the user, else the name of the run."""

    root: Path
    experiment: str | None


@contextmanager
def workspace(
    root: Path, recipe: str | None, changes: Mapping[str, Any], stages: Sequence[str], on_line: Callable[[str], None]
) -> Iterator[Workspace]:
    """The folder itself for its own params; for others a worktree, which becomes an experiment if all went well.

    Raises: InputError for a recipe, a key or a value that is not valid, or if the folder differs from its commit.
    """
    if recipe is None and not changes:
        yield Workspace(root, None)
        return
    commit, params = committed(root), overlaid(recipe, changes)
    name = experiment_name(commit, params, recipe, changes)
    with held(root / LOCKS / f"{name}.lock", on_line):
        tree = root / WORKTREES / name
        try:
            make(root, tree, commit, params, on_line)
            yield Workspace(tree, name)
            save(root, tree, name, stages)
        except BaseException:
            if (tree / MADE).exists():
                on_line(f"kept {tree.relative_to(root)}: the same command goes on there")
            raise
        with held(root / REFERENCES_LOCK, on_line):
            remove(root, tree)
        on_line(f"saved experiment {name} | next: dvc exp show, or dvc exp apply {name}")


def committed(root: Path) -> str:
    """The commit of the folder.

    Raises: InputError if what a run reads differs from it.
    """
    read = [*map(str, READ_BY_ALL), *given_inputs(root)]
    changed = git(root, "status", "--porcelain", "--untracked-files=all", "--", *read).splitlines()
    if changed:
        raise InputError(
            "uncommitted changes",
            got=", ".join(line[3:] for line in changed),
            wanted="a commit: other params are tried on what it holds, so that the result can be had again",
            do="git commit them, or git stash --include-untracked",
        )
    return git(root, "rev-parse", "HEAD")


def experiment_name(commit: str, params: str, recipe: str | None, changes: Mapping[str, Any]) -> str:
    """Words for a person, and a hash of all that the run is of."""
    pairs = [f"{key.rpartition('.')[2]}-{value}" for key, value in sorted(changes.items())]
    words = re.sub(r"\W+", "-", "-".join([*([recipe] if recipe else []), *pairs]))
    identity = hashlib.sha256("\n".join([commit, params]).encode()).hexdigest()
    return f"{words[:40].strip('-')}-{identity[:8]}"


def make(root: Path, tree: Path, commit: str, params: str, on_line: Callable[[str], None]) -> None:
    """A worktree of the commit with these params, and all outputs that the cache has; one that is whole is kept."""
    if (tree / MADE).exists() and git(tree, "rev-parse", "HEAD") == commit:
        on_line(f"goes on in {tree.relative_to(root)}")
        return
    with held(root / REFERENCES_LOCK, on_line):
        remove(root, tree)
        git(root, "worktree", "add", "--quiet", "--detach", str(tree), commit)
    link_inputs(root, tree, given_inputs(root))
    link_completions(root, tree)
    configure(root, tree)
    dvc(tree, "checkout", "--quiet", "--allow-missing", "--force")
    (tree / PARAMS).write_text(params, encoding="utf-8")
    (tree / MADE).parent.mkdir(exist_ok=True)
    (tree / MADE).touch()


def configure(root: Path, tree: Path) -> None:
    """The user's own settings and cache; what DVC knows of the files goes with the worktree."""
    if (own := root / ".dvc/config.local").exists():
        shutil.copy(own, tree / ".dvc")
    dvc(tree, "config", "--local", "cache.dir", dvc(root, "cache", "dir"))
    dvc(tree, "config", "--local", "core.site_cache_dir", str(tree / ".dvc/tmp/site"))


def save(root: Path, tree: Path, name: str, stages: Sequence[str]) -> None:
    """Make what ran an experiment of the repository, and keep its report where a browser finds it.

    The stages are named: DVC would else record those that did not run as up to date. So are files that git keeps: the
    commit may not have them yet.
    """
    if REPORT.stem in stages and (tree / REPORT).exists():
        (root / REPORTS).mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / REPORT, root / REPORTS / f"{name}.html")
    untracked = [f"--include-untracked={path}" for path in small_files(tree, stages) if (tree / path).exists()]
    with held(root / REFERENCES_LOCK, lambda _: None):
        dvc(tree, "exp", "save", "--quiet", "--force", "--name", name, *untracked, *stages)


def remove(root: Path, tree: Path) -> None:
    (tree / MADE).unlink(missing_ok=True)  # first: what is left of a removal that was killed is no worktree
    if tree.exists():
        shutil.rmtree(tree)
    git(root, "worktree", "prune")
