"""From the solutions of the sources to what SFT imitates."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from posttrain.data.problems import TRAIN, Problems
from posttrain.data.progress import progress
from posttrain.data.shuffle import Shuffle
from posttrain.params.schema import Prepare
from posttrain.prompts import ANSWER_CLOSE, THINK_OPEN, completion_text


def completions(problems: Problems, order: list[int], folder: Path) -> Shuffle:
    """The traces of all rows that stay or became one with a row that stays, at the place of that row in `order`."""
    places = {row: place for place, row in enumerate(order)}
    shuffle = Shuffle(folder, len(order), problems.table.text_bytes)
    form = Form(problems.params)
    for row, solutions in progress(solutions_of(problems), "rows with traces"):
        place = places.get(problems.owner(row))
        if place is not None:
            for solution in solutions:
                shuffle.add(place, row, form.completion(solution, problems.golds[row]))
    return shuffle


def solutions_of(problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Solutions of the rows for SFT that no rule has left out, other than by making them one with another row."""
    wanted = ((problems.fate == -1) | (problems.into != -1)) & (problems.part == TRAIN)
    for first, batch in problems.table.stream("solutions"):
        for place in np.flatnonzero(wanted[first : first + len(batch["solutions"])]).tolist():
            if problems.uses[first + place] != "grpo" and batch["solutions"][place]:
                yield first + place, batch["solutions"][place]


class Form:
    """The project's form of a trace: thoughts and answer in their tags."""

    def __init__(self, params: Prepare) -> None:
        self.cut = [re.compile(pattern) for pattern in (params.answer_pattern, params.drop_pattern) if pattern]
        self.answered = params.columns.answer is not None

    def completion(self, solution: str, gold: str) -> str:
        if solution.startswith(THINK_OPEN) and solution.endswith(ANSWER_CLOSE):
            return solution
        for pattern in self.cut:
            solution = pattern.sub("", solution)
        return completion_text(solution.strip(), gold) if self.answered else solution.strip()
