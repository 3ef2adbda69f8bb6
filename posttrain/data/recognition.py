"""What of a source's rows is read: a layout that their columns show, or the columns that params name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from posttrain.data.columns import (
    FaultyRow,
    NoSuchColumn,
    Row,
    kept_of,
    likely,
    paths_of,
    printable,
    top,
    value_at,
)
from posttrain.data.layouts import LAYOUTS, Layout, Parts, by_columns, recognised
from posttrain.data.readers import Fault, Item, refused
from posttrain.params.schema import Prepare, Source

PEEK = 100
"""Rows that the columns and the layout are known by."""


@dataclass(frozen=True)
class Stored:
    """Rows of one split, wherever they are."""

    where: str
    rows: Callable[[list[str] | None], Iterator[Item]]
    """Every row, with all columns or some."""


@dataclass(frozen=True)
class Taken:
    """What is read of a source's rows."""

    columns: list[str]
    read: Callable[[Row], Parts]
    says: str


def taken(source: Source, params: Prepare, stored: Stored) -> Taken:
    """The layout, or the named columns, known by the first rows.

    Raises: InputError naming the columns that are there and the likely ones
    """
    first = list(islice(stored.rows(None), PEEK))
    rows = [item for item in first if not isinstance(item, Fault)]
    if not rows:
        got = first[0].text if first and isinstance(first[0], Fault) else "no rows"
        raise refused(stored.where, got, "rows with a problem each", "mend or remove the row; check prepare.dataset")
    columns = source.columns or params.columns
    kept = [top(path, rows[0]) for path in columns.keep]
    chosen = _layout(source, rows, stored, columns.named() or params.answer_pattern is not None)
    for path in columns.keep:
        _require_columns({"keep": path}, rows, stored.where)
    if chosen is not None:
        there = [name for name in (*chosen.columns, *chosen.also) if any(name in row for row in rows)]
        read = _without(chosen.read, columns.answer is None, columns.solution is None)
        return Taken(list(dict.fromkeys([*there, *kept])), read, f"layout {chosen.name}: {chosen.says}")
    return _by_columns(source, params, rows, kept, stored)


def _layout(source: Source, rows: list[Row], stored: Stored, named: bool) -> Layout | None:
    if source.layout in ("columns", None) or (source.layout == "auto" and named):
        return None
    if source.layout == "auto":
        return recognised(rows)
    layout = next(one for one in LAYOUTS if one.name == source.layout)
    missing = [name for name in layout.columns if not any(name in row for row in rows)]
    if missing:
        raise refused(
            stored.where,
            f"columns {', '.join(paths_of(rows))}",
            f"`{missing[0]}`, which layout {layout.name} reads",
            "set prepare.layout to auto, or to columns and name them in prepare.columns",
        )
    return layout


def _without(read: Callable[[Row], Parts], answer: bool, solutions: bool) -> Callable[[Row], Parts]:
    def without(row: Row) -> Parts:
        parts = read(row)
        return Parts(parts.problem, "" if answer else parts.answer, () if solutions else parts.solutions)

    return without if answer or solutions else read


def _by_columns(source: Source, params: Prepare, rows: list[Row], kept: list[str], stored: Stored) -> Taken:
    columns = source.columns or params.columns
    named = {"problem": columns.problem, "solution": columns.solution, "answer": columns.answer}
    unneeded = {"sft": "answer", "grpo": "solution"}.get(source.use)
    if unneeded and not _is_there(named[unneeded], rows):
        named[unneeded] = None
    _require_columns({role: path for role, path in named.items() if path is not None}, rows, stored.where)
    paths = [path for path in named.values() if path is not None]
    needed = list(dict.fromkeys([*(top(path, rows[0]) for path in paths), *kept]))
    says = ", ".join(f"{role} of `{printable(path)}`" for role, path in named.items() if path is not None)
    return Taken(needed, by_columns(columns.problem, named["answer"], named["solution"], source.use != "sft"), says)


def _is_there(path: str | None, rows: list[Row]) -> bool:
    for row in rows:
        try:
            if path is not None:
                value_at(row, path)
                return True
        except NoSuchColumn:
            continue
    return False


def _require_columns(named: dict[str, str], rows: list[Row], where: str) -> None:
    """Raises: InputError for one that no row has"""
    for role, path in named.items():
        if _is_there(path, rows):
            continue
        found = paths_of(rows)
        maybe = [f"`{one}`" for one in likely(role, path, found)]
        known = recognised(rows)
        layout = f"; or set prepare.layout to {known.name}, whose columns these are" if known else ""
        meant = f"did you mean {' or '.join(maybe)}? " if maybe else ""
        none = "; null for data without any, or `use: grpo` for a source in a list" if role == "solution" else ""
        raise refused(
            where,
            f"columns {', '.join(found) or 'none'}",
            f"a column `{path}`",
            f"{meant}set prepare.columns.{role}{none}{layout}",
        )


def records(stored: Stored, taken: Taken, source: Source, end: int | None) -> Iterator[dict[str, Any]]:
    """Every row in the form of a table (posttrain/data/table.py)."""
    common = {"source": source.name or source.dataset, "use": source.use}
    nothing = {"problem": "", "answer": "", "solutions": [], "kept": "{}"}
    keep = source.columns.keep if source.columns else []
    for number, item in enumerate(islice(stored.rows(taken.columns), end)):
        found = item if isinstance(item, Fault) else _parts_of(item, taken, source, keep)
        if isinstance(found, Fault):
            yield {**common, "row": number, **nothing, "fault": printable(found.text, 300)}
        else:
            yield {**common, "row": number, **found, "fault": None}


def _parts_of(row: Row, taken: Taken, source: Source, keep: list[str]) -> dict[str, Any] | Fault:
    try:
        parts = taken.read(row)
        if source.use == "sft" and not parts.solutions:
            raise FaultyRow("no solution: and the source is for SFT")
        texts = {"problem": parts.problem, "answer": parts.answer, "solutions": list(parts.solutions)}
        return {**texts, "kept": kept_of(row, keep)}
    except KeyError as error:
        return Fault(f"no `{printable(error.args[0])}`: no such column in the row")
    except FaultyRow as error:
        return Fault(str(error))
