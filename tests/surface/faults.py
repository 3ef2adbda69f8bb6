"""Operators that make valid inputs wrong: of bytes, of values in a tree, of what stands in a file's place.

A fault says with its name what it is, and whether whoever reads it has to refuse it.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.surface.case import NODES, Expected, Node

Tree = Any
Path_ = tuple[str | int, ...]


class Fault(NamedTuple):
    name: str
    content: bytes | Node
    expected: Expected


class Value(NamedTuple):
    """A value as text of JSON, and what it is: `number`, `whole`, `text`, `bool`, `null`, `tree`, `never` (none)."""

    name: str
    text: str
    kind: str


VALUES = (
    Value("true", "true", "bool"),
    Value("false", "false", "bool"),
    Value("null", "null", "null"),
    Value("a number as text", '"1"', "text"),
    Value("an empty text", '""', "text"),
    Value("an empty list", "[]", "tree"),
    Value("an empty mapping", "{}", "tree"),
    Value("a list of it", '[1, "a", null]', "tree"),
    Value("a mapping with odd keys", '{"\\u001b[31m": {"": 1}}', "tree"),
    Value("0", "0", "whole"),
    Value("-1", "-1", "whole"),
    Value("a fraction", "0.5", "number"),
    Value("2**63", str(2**63), "whole"),
    Value("no number", "NaN", "never"),
    Value("infinite", "Infinity", "never"),
    Value("1e999", "1e999", "never"),
    Value("5,000 digits", "9" * 5000, "never"),
    Value("100,000 brackets", "[" * 100_000 + "]" * 100_000, "never"),
    Value("3,000 mappings", '{"a":' * 3000 + "1" + "}" * 3000, "never"),
    Value("half a surrogate pair", '"\\ud800"', "text"),
    Value("colours", '"\\u001b[31mred\\u001b]0;title\\u0007"', "text"),
    Value("text turned round", '"a\\u202eb\\u2066c"', "text"),
    Value("NUL", '"a\\u0000b"', "text"),
    Value("a megabyte", '"' + "a" * 1_000_000 + '"', "text"),
    Value("a flag", '"--trust-remote-code"', "text"),
    Value("a path out of here", '"../../../../etc/passwd"', "text"),
    Value("lines", '"a\\nposttrain: all is well\\r\\n"', "text"),
    Value("a pattern without an end", '"^(a+)+$"', "text"),
    Value("a pattern too large", '"(a{99999999999})"', "text"),
    Value("5,000 groups", '"' + "(" * 5000 + ")" * 5000 + '"', "text"),
)


def odd_values() -> st.SearchStrategy[Value]:
    """One of the list, or any JSON."""
    leaf = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=30)
    )
    any_json = st.recursive(
        leaf, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=8), one, max_size=3)
    )
    return (
        st.sampled_from(VALUES)
        | st.sampled_from(VALUES)
        | any_json.map(lambda value: Value("any JSON", json.dumps(value), kind_of(value)))
    )


def kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    kinds = {int: "whole", float: "number", str: "text", type(None): "null"}
    return kinds.get(type(value), "tree")


def places(tree: Tree, at: Path_ = ()) -> Iterator[Path_]:
    """Every place in a tree below its root."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


def value_at(tree: Tree, at: Path_) -> Any:
    for key in at:
        tree = tree[key]
    return tree


MARK = "the place of the value"


def with_value(tree: Tree, at: Path_, text: str, nan: str = "NaN") -> bytes:
    """The tree as JSON (YAML takes it too), with other text in one place."""
    changed = json.loads(json.dumps(tree))
    node = value_at(changed, at[:-1])
    node[at[-1]] = MARK
    text = text.replace("NaN", nan).replace("Infinity", nan.replace("nan", "inf") if nan != "NaN" else "Infinity")
    return json.dumps(changed, indent=1).replace(json.dumps(MARK), text, 1).encode()


def never_both(kind: str, other: str) -> bool:
    """Whether a strict reader can take no value of the one kind where it takes the other."""
    if kind == "never":
        return True
    return (
        {kind, other} not in ({"whole", "number"}, {"whole"}, {"number"})
        and kind != other
        and "null" not in (kind, other)
    )


@st.composite
def in_tree(draw: st.DrawFn, tree: Tree, lax: Callable[[Path_], bool] | None = None, nan: str = "NaN") -> Fault:
    """Another value in one place, a key more, or a key less. `lax` says of which places nothing is known."""
    at = draw(st.sampled_from(list(places(tree))))
    name = ".".join(map(str, at))
    if draw(st.integers(0, 7)) == 0 and isinstance(at[-1], str):
        return draw(
            st.sampled_from([without(tree, at, name), twice(tree, at, name, draw(st.sampled_from(VALUES)).text, nan)])
        )
    value = draw(odd_values())
    known = lax is not None and not lax(at)
    wrong = known and never_both(value.kind, kind_of(value_at(tree, at)))
    expected: Expected = "refused" if wrong else "either"
    return Fault(f"{name}: {value.name}", with_value(tree, at, value.text, nan), expected)


def without(tree: Tree, at: Path_, name: str) -> Fault:
    changed = json.loads(json.dumps(tree))
    del value_at(changed, at[:-1])[at[-1]]
    return Fault(f"{name} left out", json.dumps(changed).encode(), "either")


def twice(tree: Tree, at: Path_, name: str, text: str, nan: str) -> Fault:
    key = json.dumps(at[-1])
    doubled = with_value(tree, at, f"null, {key}: {text}", nan)
    return Fault(f"{name} twice", doubled, "either")


CONFLICT = b"<<<<<<< HEAD\n%b=======\n%b>>>>>>> theirs\n"


@st.composite
def of_bytes(draw: st.DrawFn, valid: bytes, whole: Expected = "either") -> Fault:
    """A file that was cut, mixed up, merged or is of another program. `whole` is for those that no reader takes."""
    half = len(valid) // 2
    cut = draw(st.integers(1, max(1, len(valid) - 3)))
    flip = draw(st.integers(0, max(0, len(valid) - 1)))
    return draw(
        st.sampled_from(
            [
                Fault("empty", b"", whole),
                Fault("only spaces", b" \n\n", whole),
                Fault(f"cut after {cut} bytes", valid[:cut], "either"),
                Fault("another byte", valid[:flip] + bytes([draw(st.integers(0, 255))]) + valid[flip + 1 :], "either"),
                Fault("no UTF-8", valid[:half] + b"\xff\xfe\x80" + valid[half:], whole),
                Fault("UTF-16", valid.decode(errors="replace").encode("utf-16"), whole),
                Fault("NUL bytes", b"\0" * 4096, whole),
                Fault("a byte order mark", b"\xef\xbb\xbf" + valid, "either"),
                Fault("CR LF", valid.replace(b"\n", b"\r\n"), "either"),
                Fault("conflict markers", CONFLICT % (valid, valid), whole),
                Fault("100,000 brackets", b"[" * 100_000, whole),
                Fault("100,000 mappings", b'{"a":' * 100_000, whole),
                Fault("5,000 digits", b"9" * 5000, whole),
                Fault("colours", b"\x1b[31m\x1b]0;title\x07" + valid, "either"),
                Fault("any bytes", draw(st.binary(max_size=200)), "either"),
                Fault("it twice", valid + valid, "either"),
                Fault("a list", b"[1, 2]", whole),
                Fault("a text", b'"text"', whole),
                Fault("null", b"null", whole),
            ]
        )
    )


def of_place(expected: Expected = "refused") -> st.SearchStrategy[Fault]:
    return st.sampled_from([Fault(f"{what} in its place", Node(what), expected) for what in NODES])
