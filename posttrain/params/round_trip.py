"""YAML that is read, changed and written with its comments, its order and its numbers as they stand."""

import io
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tokens import CommentToken


def load(text: str) -> Any:
    """Mappings and lists that can be changed in place, and know their comments."""
    values = _yaml().load(text)
    _move_comments_down(values)
    return values


def dump(values: Any) -> str:
    _quote_colons(values, within_braces=False)
    text = io.StringIO()
    _yaml().dump(values, text)
    return text.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 4096  # no line is folded
    yaml.preserve_quotes = True
    return yaml


def _move_comments_down(values: Any) -> None:
    """Give what stands between two keys to the lower one, which it is about.

    ruamel keeps it with the upper one: removing that would take the blank line and the comment above the next section
    along, and a key added below it would come after them. What stands below the last key stays there.
    """
    between, last = "", None
    for node, key in _places(values):
        comments = node.ca.items.get(key)
        if between and isinstance(node, CommentedMap) and not node.fa.flow_style():
            comments = comments or [None] * 4
            comments[1] = [CommentToken(between, CommentMark(0)), *(comments[1] or [])]
            node.ca.items[key] = comments
            between = ""
        if comment := comments and comments[2 if isinstance(node, CommentedMap) else 0]:
            line, end, between = comment.value.partition("\n")
            comment.value, last = line + end, comment
    if last and between:
        last.value += between


def _quote_colons(node: Any, within_braces: bool) -> None:
    """libyaml, with which DVC and `read_yaml` read, takes no `a:b` without quotes within braces; ruamel writes it."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(value, dict | list):
            own = isinstance(value, CommentedMap | CommentedSeq) and value.fa.flow_style()
            _quote_colons(value, within_braces or bool(own))
        elif within_braces and type(value) is str and ":" in value:
            node[key] = DoubleQuotedScalarString(value)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every key of every mapping, and the last place of every list, from top to bottom."""
    if isinstance(node, CommentedSeq):
        yield from [(node, len(node) - 1)] if node else []
    elif isinstance(node, CommentedMap):
        for key, value in node.items():
            yield node, key
            yield from _places(value)
