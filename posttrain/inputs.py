"""What git does not carry in a workspace that it made: data, base models, completions that evaluations share."""

import os
from collections.abc import Iterable
from pathlib import Path

from posttrain.paths import BASE_MODELS, COMPLETIONS, SOURCE_DATA, project_folder

NO_INPUT = {"__pycache__", ".git"}


def link_inputs(root: Path, tree: Path, inputs: Iterable[str | Path]) -> None:
    """Link the files of inputs that the tree lacks. DVC follows links to files, not to folders."""
    for dep in inputs:
        for folder, folders, files in os.walk(root / dep):
            folders[:] = [name for name in folders if name not in NO_INPUT]
            target = tree / Path(folder).relative_to(root)
            target.mkdir(parents=True, exist_ok=True)
            for name in [*files, *(name for name in folders if (Path(folder) / name).is_symlink())]:
                if not (target / name).exists():
                    (target / name).symlink_to((Path(folder) / name).resolve())


def link_completions(root: Path, tree: Path) -> None:
    """What a model wrote for one run, the others need not ask it again."""
    (root / COMPLETIONS).mkdir(parents=True, exist_ok=True)
    (tree / COMPLETIONS).parent.mkdir(parents=True, exist_ok=True)
    if not (tree / COMPLETIONS).exists():
        (tree / COMPLETIONS).symlink_to((root / COMPLETIONS).resolve())


def link_temporary_workspace() -> None:
    """In a workspace of `dvc exp run --temp` or `--queue`, what git ignores of the project.

    DVC has compared the inputs by then: it takes the data for changed, unless `-C` copied them before.
    """
    if (project := project_folder()) != Path():
        link_inputs(project, Path.cwd(), (SOURCE_DATA, BASE_MODELS))
        link_completions(project, Path.cwd())
