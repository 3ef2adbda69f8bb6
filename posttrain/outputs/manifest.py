"""Outputs are published whole or not at all.

A stage fills a folder `beside(...)` the one that it makes, on the same file system, which nobody reads, and `publish`
renames it. `manifest.json` is written last, so a folder that has one is complete; every consumer calls
`require_complete` before it reads. Room for anything else is in `unpublished(...)`.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.errors import InputError, PosttrainError
from posttrain.graph import how_to_restore
from posttrain.outputs.json_files import read_object
from posttrain.paths import BASE_MODELS, OUTPUTS, UNPUBLISHED
from posttrain.processes.lock import keep_held

MANIFEST = "manifest.json"
SUFFIX = ".unpublished"
OWN_MODEL = f"a model of your own belongs in {BASE_MODELS}/, named in model.name_or_path; see docs/tutorial.md"


@contextmanager
def unpublished(stage: str) -> Iterator[Path]:
    """Room for what a stage writes on its way: an empty folder, removed at the end.

    What a killed run of the stage left, here and beside outputs, is removed now.

    Raises: InputError for any fault after somebody else removed the folder: libraries have many words for it
    """
    left = [path for out in OUTPUTS for path in out.glob(f".{stage}*-*{SUFFIX}")]
    sweep([*UNPUBLISHED.glob(f"{stage}-*"), *left])
    with made(UNPUBLISHED / f"{stage}-{os.getpid()}") as folder, closing_handle(folder) as handle:
        try:
            yield folder
        except PosttrainError:
            raise
        except Exception as error:
            if is_same(folder, handle):
                raise
            raise InputError(
                str(folder),
                got="removed while the stage worked in it",
                wanted="a folder that nobody touches until the stage has ended",
                do=f"run `posttrain {stage}` again; what is published or saved is intact",
            ) from error


@contextmanager
def closing_handle(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def is_same(folder: Path, handle: int) -> bool:
    """Whether the folder is the one that the handle was opened for: a library may have made another in its place."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """An empty folder on the file system of `target`, to become it or to hold files for it; removed at the end.

    Where `target` or a folder above it is a link, the place that it points to counts.
    """
    folder = hidden(target)
    sweep(folder.parent.glob(f".{target.resolve().name}*-*{SUFFIX}"))
    with made(folder):
        yield folder


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True)  # in here, for a signal that comes with it
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hidden(target: Path, mark: str = "") -> Path:
    place = target.resolve()
    return place.with_name(f".{place.name}{mark}-{os.getpid()}{SUFFIX}")


def sweep(folders: Iterable[Path]) -> None:
    """Remove those of processes that are no more."""
    for folder in folders:
        pid = folder.name.removesuffix(SUFFIX).rpartition("-")[2]
        if not pid.isdigit() or not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it is there
        return True
    return pid != os.getpid()  # a folder with our own number is an earlier process's


def publish(source: Path, target: Path, facts: dict[str, Any]) -> None:
    """Make `source`, a folder beside it, the folder `target` in one rename; what stood there goes.

    A manifest with `facts` and the sha256 of every file is added first.

    Raises: InputError if what stands there is no stage's, RetryError if another process runs this stage by now
    """
    keep_held()
    require_replaceable(target)
    write_json(source / MANIFEST, {**facts, "files": file_hashes(source)})
    obey_umask(source)
    place, old = target.resolve(), hidden(target, ".old")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.replace(old)
    source.replace(place)
    shutil.rmtree(old, ignore_errors=True)


def obey_umask(folder: Path) -> None:
    """Give every file of a folder the mode of its manifest, which is that of any new file: safetensors writes weights
    that nobody else may read (huggingface/safetensors#782)."""
    mode = (folder / MANIFEST).stat().st_mode & 0o777
    for path in files_of(folder):
        path.chmod(mode)


def require_replaceable(folder: Path) -> None:
    """Refuse to replace a folder that no stage wrote: it may be somebody's only copy.

    Raises: InputError
    """
    if not folder.is_dir() or (folder / MANIFEST).is_file() or not any(folder.iterdir()):
        return
    raise InputError(
        str(folder),
        got=f"a folder without {MANIFEST}, so no stage wrote it, and this one would replace it",
        wanted="nothing there, or what the stage wrote",
        do=clear_away(folder),
    )


def clear_away(folder: Path) -> str:
    own = f", or move it: {OWN_MODEL}" if (folder / "config.json").is_file() else ""
    return f"remove it{own}"


def publish_files(source: Path, target: Path) -> None:
    """Move the files of `source` into `target`, each by one rename, a manifest last; other files there stay.

    For results: DVC and git keep files of their own beside them.

    Raises: RetryError if another process runs this stage by now
    """
    keep_held()
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(files_of(source), key=lambda path: path.name == MANIFEST):
        path.replace(target / path.name)


def publish_json(path: Path, data: Any) -> None:
    """Make `data` the file `path` in one rename."""
    with beside(path) as out:
        write_json(out / path.name, data)
        publish_files(out, path.parent)


def require_complete(folder: Path, made_by: str) -> dict[str, Any]:
    """The manifest of a published folder.

    Raises: InputError if the folder is missing, was left half-written, or lacks a file that its manifest lists, or if
    the manifest cannot be read.
    """
    command = f"posttrain {made_by}"
    if not folder.is_dir():
        raise InputError(
            str(folder), got="no such folder", wanted=f"the output of `{command}`", do=f"run `{command}` first"
        )
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            str(folder),
            got=f"a folder without {MANIFEST}: half-written, or no stage's",
            wanted=f"the complete output of `{command}`",
            do=f"{clear_away(folder)}; then run `{command}`",
        )
    manifest = read_manifest(path, how_to_restore(made_by, path))
    missing = [name for name in manifest["files"] if not (folder / name).is_file()]
    if missing:
        raise InputError(
            str(folder),
            got=f"{', '.join(missing)} missing",
            wanted=f"the {len(manifest['files'])} files of its {MANIFEST}",
            do=how_to_restore(made_by, *(folder / name for name in missing)),
        )
    return manifest


def read_manifest(path: Path, do: str) -> dict[str, Any]:
    """A published folder's manifest.

    Raises: InputError, with what to do, if it is cut off, no JSON, or lists no files and hashes.
    """
    manifest = read_object(path, do)
    files = manifest.get("files")
    if isinstance(files, dict) and all(isinstance(value, str) for value in files.values()):
        return manifest
    got = "JSON that lists no files with their hashes"
    raise InputError(str(path), got=got, wanted="the manifest that a stage wrote; it is cut off or was edited", do=do)


def write_json(path: Path, data: Any) -> None:
    """Sorted keys, so that equal data are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


State = tuple[int, ...]
"""What the system keeps of a file, and of nothing that was written since."""

HASHED: dict[State, str] = {}
"""By this process. The next one reads for itself: a disk may lose bytes, and another machine's writes come late."""
SETTLED_NS = 2 * 10**9
"""A file written later than this before it is hashed may be written again with the same time: clocks have ticks."""


def sha256(path: Path) -> str:
    """The hash of a file's bytes, read once as long as the system says that nobody wrote to it."""
    with path.open("rb") as file:
        before = state(file)
        if before in HASHED:
            return HASHED[before]
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if before == state(file) and max(before[-2:]) < time.time_ns() - SETTLED_NS:
            HASHED[before] = found
    return found


def state(file: BinaryIO) -> State:
    """Which file it is, its size, and when its bytes and its entry changed: the last nobody can set."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sha256_all(paths: Iterable[Path]) -> dict[Path, str]:
    """The sha256 of several files, as many at once as there are cores: hashing holds no lock of the interpreter."""
    ordered = list(paths)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(ordered, pool.map(sha256, ordered), strict=True))


def file_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file in a folder, by its name in there; the manifest left out."""
    hashes = sha256_all(files_of(folder))
    return {name: value for path, value in hashes.items() if (name := str(path.relative_to(folder))) != MANIFEST}


def files_of(folder: Path) -> list[Path]:
    """Without what Python and DVC put beside them."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts and path.name != ".gitignore")
