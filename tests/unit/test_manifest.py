"""Outputs appear whole or not at all, and a consumer can tell."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError, RetryError
from posttrain.outputs.json_files import RESTORE, read_objects
from posttrain.outputs.manifest import (
    beside,
    publish,
    publish_files,
    require_complete,
    sha256,
    unpublished,
    write_json,
    write_jsonl,
)
from posttrain.paths import UNPUBLISHED
from tests.conftest import PROJECT

# FIPS 180-2, appendix B.1, and the hash of nothing.
SHA256_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
SHA256_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_publish_replaces_a_folder_whole(project: Path) -> None:
    target = written(
        project / "data/out", {"old.txt": "old", "sub/old.txt": "old", "both.txt": "old", "manifest.json": "{}"}
    )
    publish(written(project / "work", {"both.txt": "new", "sub/new.txt": "new"}), target, {})
    assert names(target) == {"both.txt", "sub/new.txt", "manifest.json"}
    assert (target / "both.txt").read_text(encoding="utf-8") == "new"
    # Neither the source nor what stood there before is left anywhere.
    assert {path.name for path in project.iterdir()} == PROJECT | {"data"}
    assert {path.name for path in (project / "data").iterdir()} == {"out"}


def test_publish_makes_a_folder_that_was_not_there(project: Path) -> None:
    publish(written(project / "work", {"a.txt": "abc"}), project / "deep/er/out", {})
    assert names(project / "deep/er/out") == {"a.txt", "manifest.json"}


def test_publish_files_replaces_files_and_spares_others(project: Path) -> None:
    target = written(project / "results", {"both.txt": "old", ".gitignore": "/both.txt"})
    publish_files(written(project / "work", {"both.txt": "new", "new.txt": "new"}), target)
    assert names(target) == {"both.txt", "new.txt", ".gitignore"}
    assert (target / "both.txt").read_text(encoding="utf-8") == "new"


def test_the_manifest_lists_the_hash_of_each_file(project: Path) -> None:
    publish(written(project / "work", {"a.txt": "abc", "sub/b.txt": ""}), project / "out", {"stage": "prepare"})
    manifest = json.loads((project / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest == {"stage": "prepare", "files": {"a.txt": SHA256_ABC, "sub/b.txt": SHA256_NOTHING}}
    assert require_complete(project / "out", "prepare") == manifest


def test_no_folder_names_the_stage_to_run(project: Path) -> None:
    with pytest.raises(InputError) as caught:
        require_complete(Path("data/prepared"), "prepare")
    assert caught.value.where == "data/prepared"
    assert "no such folder" in caught.value.got
    assert "posttrain prepare" in caught.value.do


def test_a_folder_without_manifest_is_half_written(project: Path) -> None:
    written(project / "models/sft", {"model.safetensors": "abc"})
    with pytest.raises(InputError) as caught:
        require_complete(Path("models/sft"), "sft")
    assert caught.value.where == "models/sft"
    assert "half-written" in caught.value.got
    assert "posttrain sft" in caught.value.do


def test_a_listed_file_that_is_missing_is_named(project: Path) -> None:
    publish(written(project / "work", {"a.txt": "abc", "sub/b.txt": "", "c.txt": ""}), project / "out", {})
    (project / "out/sub/b.txt").unlink()
    (project / "out/c.txt").unlink()
    with pytest.raises(InputError) as caught:
        require_complete(Path("out"), "grpo")
    assert "sub/b.txt" in caught.value.got
    assert "c.txt" in caught.value.got
    assert "a.txt" not in caught.value.got
    assert "posttrain grpo" in caught.value.do


def test_a_file_instead_of_a_folder_is_no_output(project: Path) -> None:
    written(project, {"out": "abc"})
    with pytest.raises(InputError):
        require_complete(Path("out"), "prepare")


def test_scratch_is_empty_at_first_and_gone_at_the_end(project: Path) -> None:
    with unpublished("prepare") as folder:
        assert list(folder.iterdir()) == []
        written(folder, {"half.txt": "abc"})
    assert list(UNPUBLISHED.iterdir()) == []


def test_scratch_is_gone_after_an_exception(project: Path) -> None:
    def interrupted() -> None:
        with unpublished("prepare") as folder:
            written(folder, {"sub/half.txt": "abc"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(UNPUBLISHED.iterdir()) == []


def test_what_was_published_from_scratch_stays(project: Path) -> None:
    with unpublished("prepare") as folder:
        publish(written(folder / "work", {"a.txt": "abc"}), project / "out", {})
    assert names(project / "out") == {"a.txt", "manifest.json"}
    assert list(UNPUBLISHED.iterdir()) == []


def test_equal_data_are_equal_bytes(project: Path) -> None:
    write_json(Path("one.json"), {"b": 1, "a": {"d": [1, 2], "c": "π"}})
    write_json(Path("sub/two.json"), {"a": {"c": "π", "d": [1, 2]}, "b": 1})
    expected = '{\n  "a": {\n    "c": "π",\n    "d": [\n      1,\n      2\n    ]\n  },\n  "b": 1\n}\n'
    assert Path("one.json").read_bytes() == expected.encode()
    assert Path("sub/two.json").read_bytes() == expected.encode()


def test_rows_come_back_as_they_were_written(project: Path) -> None:
    # U+2028, U+2029 and U+0085 end a line for str.splitlines(), not for JSON Lines.
    rows: list[dict[str, Any]] = [
        {"text": "one\ntwo"},
        {"text": "a\u2028b\u2029c\x85d"},
        {"text": "Wörter", "n": [1, 2.5, None]},
    ]
    write_jsonl(Path("rows.jsonl"), rows)
    assert Path("rows.jsonl").read_bytes().count(b"\n") == 3
    assert list(read_objects(Path("rows.jsonl"), RESTORE)) == rows


def test_what_a_killed_run_left_is_swept_and_a_living_ones_is_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the room of the stage and beside its outputs, where what is left can be a whole model."""
    monkeypatch.chdir(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()

    def folders(stage: str, pid: int) -> list[Path]:
        names = (f"models/.{stage}-{pid}.unpublished", f"models/.{stage}.old-{pid}.unpublished")
        return [UNPUBLISHED / f"{stage}-{pid}", *map(Path, names)]

    left, living, other = folders("sft", dead.pid), folders("sft", os.getppid()), folders("grpo", dead.pid)
    for folder in (*left, *living, *other):
        folder.mkdir(parents=True)
    with unpublished("sft"):
        assert [folder.is_dir() for folder in (*left, *living, *other)] == [False] * 3 + [True] * 6
    with beside(Path("models/grpo")):
        assert [folder.is_dir() for folder in other] == [True, False, False]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to be hashed."""
    names, digest = [], hashlib.file_digest

    def noted(file: Any, name: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return names


def of_an_hour_ago(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Write a file, and let an hour pass; when its bytes changed."""
    path.write_text(text)
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)
    return path.stat().st_mtime_ns


def test_a_file_is_read_once_by_a_process(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    of_an_hour_ago(tmp_path / "weights", "as trained", monkeypatch)
    assert [sha256(tmp_path / "weights") for _ in range(3)] == [hashlib.sha256(b"as trained").hexdigest()] * 3
    assert read == ["weights"]


@pytest.mark.parametrize("how", ["in place", "by a rename"])
def test_a_file_that_changed_is_read_again_whatever_its_time_says(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path, other = tmp_path / "weights", tmp_path / "other"
    written = of_an_hour_ago(path, "as trained", monkeypatch)
    sha256(path)
    time.sleep(0.05)  # some ticks of the file system's clock, in place of the hour
    (path if how == "in place" else other).write_text("as edited!")
    os.utime(path if how == "in place" else other, ns=(written, written))
    if how == "by a rename":
        other.replace(path)
    assert path.stat().st_mtime_ns == written
    assert sha256(path) == hashlib.sha256(b"as edited!").hexdigest()
    assert read == ["weights", "weights"]


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path: Path, read: list[str]) -> None:
    (tmp_path / "weights").write_text("one")
    sha256(tmp_path / "weights")
    sha256(tmp_path / "weights")
    assert read == ["weights", "weights"]


@pytest.mark.parametrize("again", [False, True])
def test_whatever_a_library_says_a_removed_folder_is_named(again: bool, tmp_path: Path, monkeypatch: Any) -> None:
    """Those that write there say it in their own words, some without the name; some make the folder anew."""
    monkeypatch.chdir(tmp_path)

    def work(fault: Exception, *, removed: bool) -> None:
        with unpublished("sft") as folder:
            if removed:
                shutil.rmtree(".posttrain")
                if again:
                    (folder / "trainer").mkdir(parents=True)
            raise fault

    words = (
        RuntimeError("Parent directory does not exist."),
        FileNotFoundError("Failed to open local file 'tokens.arrow'"),
    )
    for fault in words:
        with pytest.raises(InputError, match=r"unpublished/sft-\d+\n.*removed while the stage worked in it") as told:
            work(fault, removed=True)
        assert told.value.__cause__ is fault
        with pytest.raises(type(fault), match=re.escape(str(fault))):
            work(fault, removed=False)
    ours = RetryError("another run")
    with pytest.raises(RetryError) as passed:
        work(ours, removed=True)
    assert passed.value is ours
