"""Which files of data/source hold a split: a file, a folder of splits or shards, or a clone of a Hub repository."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.data.readers import COMPRESSED, SUFFIXES, no_such_file, refused
from posttrain.errors import InputError
from posttrain.params import plain_yaml
from posttrain.paths import SOURCE_DATA

DEPTH = 4
"""Folders within folders that are looked into."""

SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
SHARD = re.compile(r"-(\d{3,})-of-(\d{3,})\b")


def require_dep(path: Path) -> None:
    """Raises: InputError for data whose changes DVC would not see: outside data/source, or in a folder linked there.

    DVC hashes what a link to a file leads to, and passes over links to folders.
    """
    if not path.exists():
        if _loops(path):
            raise refused(path, "a link that leads to itself", "a file or folder", "remove the link")
        raise no_such_file(path)
    root, inside = _absolute(SOURCE_DATA), _absolute(path)
    copy = f"cp -rs {inside} {SOURCE_DATA}/"
    if not inside.is_relative_to(root):
        raise refused(
            path,
            f"data outside {SOURCE_DATA}, where DVC would not notice a change",
            f"a file or folder in {SOURCE_DATA}, or a link to a file",
            f"run `{copy}` (real folders, linked files; without `s` it copies), then name {SOURCE_DATA}/{path.name}",
        )
    for parent in (inside, *inside.parents):
        if parent != root and parent.is_relative_to(root) and parent.is_symlink() and parent.is_dir():
            raise _linked(parent)


def _absolute(path: Path) -> Path:
    """Without `..`, links kept."""
    return Path(os.path.normpath(path.absolute()))


def _loops(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _linked(folder: Path) -> InputError:
    return refused(
        folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder,
        "a linked folder, which DVC passes over: it would not notice a change",
        "a folder with files or links to files",
        f"run `rm {folder.name} && cp -rs {os.path.realpath(folder)} {folder.name}` in its place",
    )


def is_saved(folder: Path) -> bool:
    """Whether it is what `save_to_disk` writes."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json"))


def files_of_split(path: Path, config: str | None, split: str) -> list[Path]:
    """The files with a split's rows, shards in order.

    Raises: InputError naming what is there
    """
    if not path.is_dir():
        if split != "train":
            raise refused(
                path,
                f"one file, which has one split, `train`, and `{split}` is asked for",
                f"a folder with a file for each split, such as {split}.jsonl",
                "set test_split to null, which holds out test_frac of the problems, or cut slices: `train[90%:]`",
            )
        return [path]
    declared = _configs(path)
    if declared:
        return _declared(path, declared, config, split)
    if config is not None:
        path = path / config
        if not path.is_dir():
            raise refused(path, "no such folder", "a folder for prepare.config", "set it to null, or mend the name")
    return _named(path, split)


# ---------------------------------------------------------------------------------------------------------------------
# Names


def data_files(folder: Path) -> list[Path]:
    """Files with rows, by their names, hidden ones left out; shards in the order of their numbers."""
    return sorted(_walk(folder), key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(path))])


def _walk(folder: Path) -> Iterator[Path]:
    for top, folders, names in os.walk(folder):
        for name in [name for name in folders if (Path(top) / name).is_symlink() and not _is_cycle(Path(top) / name)]:
            raise _linked(_absolute(Path(top) / name))
        deep = len(Path(top).relative_to(folder).parts) >= DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith((".", "_")))
        yield from (Path(top) / name for name in names if not name.startswith((".", "_")) and _has_rows(name))


def _is_cycle(link: Path) -> bool:
    return Path(os.path.realpath(link.parent)).is_relative_to(os.path.realpath(link))


def _has_rows(name: str) -> bool:
    stem = name.lower()
    for suffix in COMPRESSED:
        stem = stem.removesuffix(suffix)
    return stem.endswith(SUFFIXES) and stem not in ("dataset_info.json", "dataset_infos.json", "state.json")


def _named(folder: Path, split: str) -> list[Path]:
    found = data_files(folder)
    exact = [path for path in found if path.parent == folder and path.name.partition(".")[0] == split]
    if len(exact) > 1:
        names = " and ".join(path.name for path in exact)
        raise refused(folder, f"{names}, both of split `{split}`", "one file", "name the file, or remove one")
    chosen = exact or [path for path in found if _is_of(path.relative_to(folder), split)]
    if not chosen and split == "train" and not any(_is_of(p.relative_to(folder), s) for p in found for s in SPLITS):
        chosen = found
    if not chosen:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:8])
        anything = ", ".join(sorted(item.name for item in folder.iterdir())[:8])
        raise refused(
            folder,
            f"files {names or anything or 'none'}",
            f"files of split `{split}`: {split}.jsonl, data/{split}-*.parquet, or what `save_to_disk` writes",
            "check prepare.dataset and prepare.train_split / test_split",
        )
    _require_all_shards(chosen, folder)
    return chosen


def _is_of(path: Path, split: str) -> bool:
    """Whether a word of the path is the split's name."""
    return re.search(rf"(?:^|[/._-]){re.escape(split)}(?:[/._-]|\d+[._-]|$)", path.as_posix()) is not None


def _require_all_shards(paths: list[Path], folder: Path) -> None:
    """Raises: InputError if `train-00001-of-00003` is missing, or of two formats"""
    groups: dict[str, set[int]] = {}
    for path in paths:
        if match := SHARD.search(path.name):
            groups.setdefault(SHARD.sub(f"-*-of-{match[2]}", str(path)), set()).add(int(match[1]))
    for name, numbers in groups.items():
        match = re.search(r"-of-(\d+)", name)
        missing = sorted({*range(int(match[1]) if match else 0)} - numbers)
        if missing:
            what = f"{len(numbers)} of the shards {Path(name).name}; number {missing[0]} is missing"
            raise refused(folder, what, "every shard", "download the missing ones")
    kinds = sorted({next(s for s in SUFFIXES if s in path.name.lower()) for path in paths})
    if len(kinds) > 1:
        raise refused(folder, f"shards in {' and '.join(kinds)}", "one format for a split", "keep the files of one")


# ---------------------------------------------------------------------------------------------------------------------
# Clones


def _configs(folder: Path) -> list[dict[str, Any]]:
    """What a clone's README.md says of its files; empty where it says nothing."""
    readme = folder / "README.md"
    if not readme.is_file():
        return []
    with readme.open("rb") as file:
        text = file.read(plain_yaml.MAX_BYTES).decode("utf-8", "replace")
    match = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    found = plain_yaml.parse(match[1], str(readme), "mend the head between the two ---") if match else None
    configs = found.get("configs") if isinstance(found, dict) else None
    return (
        [one for one in configs if isinstance(one, dict) and "data_files" in one] if isinstance(configs, list) else []
    )


def _declared(folder: Path, configs: list[dict[str, Any]], config: str | None, split: str) -> list[Path]:
    names = [str(one.get("config_name", "default")) for one in configs]
    wanted = config or ("default" if "default" in names else names[0] if len(names) == 1 else "")
    if wanted not in names:
        got = f"no configuration `{config}`" if config else f"{len(names)} configurations and none named"
        raise refused(folder / "README.md", got, f"prepare.config: one of {', '.join(names)}", "name one")
    splits = _splits_of(configs[names.index(wanted)]["data_files"])
    if split not in splits:
        got = f"splits {', '.join(splits)} in configuration `{wanted}`"
        raise refused(folder / "README.md", got, f"a split `{split}`", "check prepare.train_split / test_split")
    found = [path for pattern in splits[split] for path in _matching(folder, pattern)]
    if not found:
        got = f"no file that matches {', '.join(splits[split])}"
        raise refused(
            folder, got, f"the files of split `{split}`", "run `git lfs pull` in the clone, or clone it again"
        )
    _require_all_shards(found, folder)
    return found


def _splits_of(declared: Any) -> dict[str, list[str]]:
    """Patterns by split, from each of the forms that the Hub takes."""
    if isinstance(declared, dict):
        declared = [{"split": split, "path": path} for split, path in declared.items()]
    if not isinstance(declared, list) or not all(isinstance(one, dict) for one in declared):
        declared = [{"split": "train", "path": declared}]
    paths = [(str(one.get("split", "train")), one.get("path", [])) for one in declared]
    return {split: [str(p) for p in (path if isinstance(path, list) else [path])] for split, path in paths}


def _matching(folder: Path, pattern: str) -> list[Path]:
    if ".." in Path(pattern).parts or Path(pattern).is_absolute():
        raise refused(folder / "README.md", f"a path out of the clone: {pattern}", "paths within", "mend data_files")
    expression = re.compile(_translated(pattern))
    return [path for path in data_files(folder) if expression.fullmatch(path.relative_to(folder).as_posix())]


def _translated(pattern: str) -> str:
    """A pattern of the Hub as a regular expression: `*` stays within a folder, `**` does not."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern.removeprefix("./"))
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(meaning.get(part, re.escape(part)) for part in parts)
