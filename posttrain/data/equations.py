"""The tutorial's equations, `Solve: 3x - 5 = 10`, with traces of a teacher who is often wrong.

The teacher stands for the one of the tutorial's "Problem 1": well-formed traces, wrong answers. SFT learns to imitate
it, mistakes included; only the verifiable reward of GRPO can do better than the teacher.
"""

import random
from dataclasses import dataclass
from typing import Any

from posttrain.data.problems import key_of
from posttrain.params.schema import BUILT_IN, Equations, Params, Teacher
from posttrain.prompts import completion_text


@dataclass(frozen=True)
class Equation:
    """coefficient * x + constant = right; the constant is negative for `Solve: 3x - 5 = 10`."""

    coefficient: int
    constant: int
    solution: int

    @property
    def right(self) -> int:
        return self.coefficient * self.solution + self.constant

    @property
    def left(self) -> str:
        return f"{self.coefficient}x {'+' if self.constant > 0 else '-'} {abs(self.constant)}"

    @property
    def problem(self) -> str:
        return f"Solve: {self.left} = {self.right}"

    @property
    def answer(self) -> str:
        return f"x = {self.solution}"


def equations(params: Equations) -> list[Equation]:
    """Every equation within the bounds, in a fixed order."""
    return [
        Equation(coefficient, sign * constant, solution)
        for coefficient in range(2, params.max_coefficient + 1)
        for solution in range(1, params.max_solution + 1)
        for constant in range(1, params.max_constant + 1)
        for sign in (1, -1)
    ]


def teacher_trace(equation: Equation, teacher: Teacher, rng: random.Random) -> str:
    """One completion of the flawed teacher; its mistakes are drawn from `rng`."""
    slips = rng.random() < teacher.operation_slip_frac
    twice = slips and rng.random() < 0.5
    coefficient, right = equation.coefficient, equation.right
    moved = equation.constant if twice else -equation.constant
    term = right + moved
    verb, sign = ("Adding", "+") if moved > 0 else ("Subtracting", "-")
    first = f"{verb} {abs(moved)}: {coefficient}x = {right} {sign} {abs(moved)} = {term}"
    if slips:
        solution = term - coefficient
        second = f"Subtracting {coefficient}: x = {term} - {coefficient} = {solution}"
    else:
        solution = term // coefficient
        second = f"Dividing by {coefficient}: x = {term} / {coefficient} = {solution}"
    # The teacher claims to have verified, whatever came out.
    check = f"Verification: {equation.left.replace('x', f'({solution})')} = {right}"
    return completion_text(f"{first}\n{second}\n{check}", f"x = {solution}")


def equation_rows(params: Params) -> list[dict[str, Any]]:
    """Every equation as a row of a source; the teacher's mistakes come from the seed and the equation alone."""
    config, rows = params.prepare.equations, []
    for number, equation in enumerate(equations(config)):
        rng = random.Random(f"{params.seed}/{key_of(equation.problem).hex()}")
        traces = [teacher_trace(equation, config.teacher, rng) for _ in range(config.traces_per_problem)]
        texts = {"problem": equation.problem, "answer": equation.answer, "solutions": traces}
        rows.append({"source": BUILT_IN, "row": number, **texts, "kept": "{}", "use": "both", "fault": None})
    return rows
