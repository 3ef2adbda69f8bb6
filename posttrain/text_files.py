"""Text that a person or another program put there, read with bounds: a regular file, no larger than any of its kind,
UTF-8. Whoever reads such a file reads it here. Standard library only.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.errors import InputError

MAX_BYTES = 2**30


def read_text(path: Path, do: str, most_bytes: int = MAX_BYTES) -> str:
    """The text of a file, its lines ended by line feeds; `do` tells a person what mends it.

    Raises: InputError for what is no file, no UTF-8, or larger than that
    """
    with explained(path, do):
        require_file(path, do, most_bytes)
        return path.read_text(encoding="utf-8-sig")


def read_lines(path: Path, do: str, most_bytes: int = MAX_BYTES) -> Iterator[str]:
    """The lines of a file, one at a time, without their ends.

    Raises: InputError as `read_text`
    """
    with explained(path, do):
        require_file(path, do, most_bytes)
        # Line feeds alone end lines: U+2028 and its kind stand unescaped in JSON.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from (line.removesuffix("\n") for line in file)


def require_file(path: Path, do: str, most_bytes: int = MAX_BYTES) -> None:
    """Raises: InputError; OSError"""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would wait, a device never end
        raise InputError(str(path), got="a folder, a pipe or a device", wanted="a file", do=do)
    if found.st_size > most_bytes:
        raise InputError(str(path), got=f"{found.st_size} bytes", wanted=f"at most {most_bytes}", do=do)


@contextmanager
def explained(path: Path, do: str) -> Iterator[None]:
    """What the system and the decoder raise, as InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(str(path), got=error.strerror or str(error), wanted="a file", do=do) from None
    except UnicodeDecodeError as error:
        raise InputError(str(path), got=f"byte {error.start} is not UTF-8", wanted="UTF-8 text", do=do) from None


def require_regular(folder: Path, do: str) -> None:
    """Raises: InputError for a pipe, a device or a socket in a folder that another library reads"""
    with explained(folder, do):
        entries = sorted(folder.iterdir())
    for path in entries:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(str(path), got="a pipe, a socket or a device", wanted="a file", do=do)
