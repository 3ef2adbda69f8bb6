"""YAML that somebody else wrote, as plain data: bounded before it is composed, and never a traceback.

libyaml's composer calls itself for every level and ends the process on a text of 100,000 brackets, so levels are
counted on the stream of events first. ruamel reads YAML 1.2, where 1e-05 (which `dvc exp run -S` writes) is a float.
"""

import stat
from pathlib import Path
from typing import Any

from posttrain.errors import InputError

MAX_BYTES = 2**20
MAX_DEPTH = 40


def read(path: Path, do: str = "mend the line it names") -> Any:
    """The content of a YAML file.

    Raises: FileNotFoundError; InputError for what is no regular file, no UTF-8, no YAML, or larger or deeper than
    anybody writes
    """
    return parse(read_text(path), str(path), do)


def read_text(path: Path) -> str:
    """Raises: FileNotFoundError; InputError for what is no regular file, no UTF-8, or larger than anybody writes"""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would wait, a device never end
            raise InputError(str(path), got="a folder, a pipe or a device", wanted="a file", do="mend the path")
        if found.st_size > MAX_BYTES:
            raise InputError(str(path), got=f"{found.st_size} bytes", wanted=f"at most {MAX_BYTES}", do="mend the path")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(str(path), got=str(error.strerror), wanted="a file", do="mend the path") from None
    except UnicodeDecodeError as error:
        raise InputError(
            str(path), got=f"byte {error.start} is not UTF-8", wanted="UTF-8 text", do="save it as UTF-8"
        ) from None


def parse(text: str, where: str, do: str) -> Any:
    """Raises: InputError"""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        require_shallow(text, where)
        return YAML(typ="safe").load(text)
    except InputError:
        raise
    except (YAMLError, ValueError, OverflowError) as error:  # ValueError: numbers of 5,000 digits, dates of month 13
        raise InputError(where, got=" ".join(str(error).split())[:400], wanted="YAML", do=do) from None


def require_shallow(text: str, where: str) -> None:
    """Raises: InputError if it is nested deeper than MAX_DEPTH; YAMLError"""
    from ruamel.yaml import YAML
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in YAML(typ="safe").parse(text):
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1
            raise InputError(
                where, got=f"more than {MAX_DEPTH} levels in line {line}", wanted="fewer", do="mend the line"
            )
