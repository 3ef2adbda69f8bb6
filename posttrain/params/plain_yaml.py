"""YAML that somebody else wrote, as plain data: bounded before it is composed, and never a traceback.

libyaml's composer calls itself for every level and ends the process on a text of 100,000 brackets, so levels are
counted on the stream of events first. ruamel reads YAML 1.2, where 1e-05 (which `dvc exp run -S` writes) is a float.
"""

from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.text_files import read_text

MAX_BYTES = 2**20
MAX_DEPTH = 40


def read(path: Path, do: str = "mend the line it names") -> Any:
    """The content of a YAML file.

    Raises: InputError for what is no regular file, no UTF-8, no YAML, or larger or deeper than anybody writes
    """
    return parse(read_yaml_text(path), str(path), do)


def read_yaml_text(path: Path) -> str:
    """Raises: InputError for what is no regular file, no UTF-8, or larger than anybody writes"""
    return read_text(path, "mend the path, or save it as UTF-8", MAX_BYTES)


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
