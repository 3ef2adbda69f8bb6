"""A case: files put into a copy of a project, a command in there, and what it may say."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Expected = Literal["refused", "accepted", "either"]
Program = Literal["posttrain", "flow"]
NODES = ("fifo", "folder", "loop", "dangling", "endless", "socket", "nothing")
"""What can stand in the place of a file."""


@dataclass(frozen=True)
class Node:
    """Something else than a file."""

    what: str


@dataclass(frozen=True)
class Case:
    argv: tuple[str, ...]
    fault: str
    """What is wrong, for a person."""
    files: Mapping[str, bytes | Node] = field(default_factory=dict)
    expected: Expected = "either"
    program: Program = "posttrain"
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""

    def __repr__(self) -> str:
        return f"{self.program} {' '.join(map(repr, self.argv))[:200]} | {self.fault} | {', '.join(self.files)}"


def put(root: Path, files: Mapping[str, bytes | Node]) -> None:
    """The files of a case, in the place of what is there."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if isinstance(content, Node):
            place(path, content.what)
        else:
            path.write_bytes(content)


def place(path: Path, what: str) -> None:
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path.name)
    elif what == "dangling":
        path.symlink_to("is/not/there")
    elif what == "endless":
        path.symlink_to("/dev/zero")
    elif what == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket may have 107 bytes
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
