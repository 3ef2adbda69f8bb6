"""A progress bar where somebody looks: on a terminal, and on nothing else."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, each: int = 1, total: int | None = None) -> Iterator[Item]:
    """The items, counted on stderr; `each` of them stands for so many of `what`."""
    if not sys.stderr.isatty():
        yield from items
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="", unit_scale=True, desc=f"prepare | {what}", leave=False) as bar:
        for item in items:
            yield item
            bar.update(each)
