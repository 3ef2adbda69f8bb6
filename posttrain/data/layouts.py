"""Forms in which people publish problems, known by their columns, and what each holds as problem, answer and traces."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.data.columns import FaultyRow, NoSuchColumn, Row, answer_of, text_of, traces_of, value_at
from posttrain.judge.answers import last_boxed
from posttrain.prompts import THINK_CLOSE, THINK_OPEN


@dataclass(frozen=True)
class Parts:
    problem: str
    answer: str = ""
    """Empty for none."""
    solutions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    name: str
    columns: tuple[str, ...]
    """Those that make it known."""
    also: tuple[str, ...]
    """Others that are read where they are there."""
    read: Callable[[Row], Parts]
    says: str
    """What is taken from where."""
    fits: Callable[[Row], bool] = lambda row: True
    """Whether a row with these columns is of this layout."""


# ---------------------------------------------------------------------------------------------------------------------
# Text


BOX = re.compile(r"\\(?:fbox|boxed)\s*\{")
BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$.,]+)")


def boxed_in(text: str) -> str:
    r"""What the last \boxed holds, also \fbox{5} and \boxed 5; empty without one that is closed."""
    return last_boxed(BARE_BOX.sub(r"\\boxed{\1}", BOX.sub(r"\\boxed{", text))) or ""


def boxed_answer(text: str) -> str:
    r"""Raises: FaultyRow without a \boxed"""
    found = boxed_in(text)
    if not found.strip():
        raise FaultyRow("no answer: no \\boxed{...} that is closed in the solution")
    return found


DAPO = re.compile(
    r"\s*Solve the following math problem step by step\.\s*The last line of your response should be of the form Answer:"
    r"\s*\$Answer \(without quotes\) where \$Answer is the answer to the problem\.\s*(.*?)"
    r"\s*Remember to put your answer on its own line after \"Answer:\"\.\s*",
    re.DOTALL,
)
INSTRUCTION = re.compile(
    r"\s*(?:(?:Let's|Please) (?:think|reason) step by step,? and (?:output|put) (?:the|your) final answer"
    r" (?:after \"####\"|within \\boxed\{\})\.?)\s*$"
)
"""Instructions about the answer's form that other projects put around a problem: the system prompt says ours."""


def without_instruction(prompt: str) -> str:
    around = DAPO.fullmatch(prompt)
    return around[1] if around else INSTRUCTION.sub("", prompt)


OPEN_THOUGHTS = (
    ("<|begin_of_thought|>", THINK_OPEN),
    ("<|end_of_thought|>", THINK_CLOSE),
    ("<|begin_of_solution|>", ""),
    ("<|end_of_solution|>", ""),
)


def with_think_tags(trace: str) -> str:
    for theirs, ours in OPEN_THOUGHTS:
        trace = trace.replace(theirs, ours)
    return trace


def thought(thoughts: str, rest: str) -> str:
    return f"{THINK_OPEN}\n{thoughts.strip()}\n{THINK_CLOSE}\n\n{rest.strip()}"


# ---------------------------------------------------------------------------------------------------------------------
# Conversations

USERS, ASSISTANTS = ("user", "human"), ("assistant", "gpt", "model")


def turns(value: Any, path: str) -> list[tuple[str, str]]:
    """Role and text of each message, in either of the two spellings.

    Raises: FaultyRow
    """
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise FaultyRow(f"`{path}` is no list of messages: {type(value).__name__}")
    return [(str(one.get("role", one.get("from"))), said(one, path)) for one in value]


def said(message: Row, path: str) -> str:
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # of parts, each with a type
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    text = text_of(content, f"{path}: content")
    thoughts = message.get("reasoning_content") or message.get("thinking")
    return thought(thoughts, text) if isinstance(thoughts, str) and THINK_OPEN not in text else text


def question(value: Any, path: str) -> str:
    """The one text of the user, without instructions about the answer's form.

    Raises: FaultyRow
    """
    if isinstance(value, str):
        return without_instruction(text_of(value, path))
    asked = [text for role, text in turns(value, path) if role in USERS]
    if len(asked) != 1:
        raise FaultyRow(f"`{path}` has not one message of a user: {len(asked)}")
    return without_instruction(asked[0])


GOLDS = ("answer", "final_answer", "expected_answer", "ground_truth")


def conversation(column: str) -> Callable[[Row], Parts]:
    def read(row: Row) -> Parts:
        problem = question(row[column], column)
        traces = [with_think_tags(text) for role, text in turns(row[column], column) if role in ASSISTANTS]
        gold = next((name for name in GOLDS if row.get(name) is not None), None)
        answer = answer_of(row[gold], gold) if gold else boxed_in(traces[-1]) if traces else ""
        return Parts(problem, answer, tuple(traces))

    return read


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


def openr1(row: Row) -> Parts:
    """The traces that were ended and that math-verify found right; all of them where nobody looked."""
    traces = row["generations"]
    if not isinstance(traces, list):
        raise FaultyRow(f"`generations` is no list: {type(traces).__name__}")
    right = [True] * len(traces)
    for flag in ("correctness_math_verify", "is_reasoning_complete"):
        flags = row.get(flag)
        if flags is not None and (not isinstance(flags, list) or len(flags) != len(traces)):
            raise FaultyRow(f"`{flag}` has not one flag a generation: {len(traces)} generations")
        right = [old and bool(new) for old, new in zip(right, flags or right, strict=True)]
    kept = [text_of(trace, "generations") for trace, good in zip(traces, right, strict=True) if good and trace]
    return Parts(text_of(row["problem"], "problem"), answer_of(row["answer"], "answer"), tuple(kept))


CALCULATOR = re.compile(r"<<[^<>]*>>")


def gsm8k(row: Row) -> Parts:
    worked, mark, gold = text_of(row["answer"], "answer").rpartition("####")
    if not mark or not gold.strip():
        raise FaultyRow("no answer: no #### with a gold after it in `answer`")
    return Parts(text_of(row["question"], "question"), gold.strip(), (CALCULATOR.sub("", worked).strip(),))


def boxed(row: Row) -> Parts:
    solution = text_of(row["solution"], "solution")
    return Parts(text_of(row["problem"], "problem"), boxed_answer(solution), (solution,))


def verl(row: Row) -> Parts:
    gold = answer_of(value_at(row, "reward_model.ground_truth"), "reward_model.ground_truth")
    return Parts(question(row["prompt"], "prompt"), gold)


def open_thoughts(row: Row) -> Parts:
    texts = (text_of(row[name], name) for name in ("problem", "deepseek_reasoning", "deepseek_solution"))
    problem, thoughts, rest = texts
    gold = row.get("ground_truth_solution")
    return Parts(problem, boxed_in(gold if isinstance(gold, str) else rest), (thought(thoughts, rest),))


R1_SOLUTIONS = tuple(f"r1_solution_{number}" for number in (1, 2, 3))


def deepmath(row: Row) -> Parts:
    traces = tuple(trace for name in R1_SOLUTIONS for trace in traces_of(row.get(name), name))
    return Parts(text_of(row["question"], "question"), answer_of(row["final_answer"], "final_answer"), traces)


def is_conversation(column: str) -> Callable[[Row], bool]:
    return lambda row: isinstance(row[column], list) and not {"problem", "question"} & row.keys()


LAYOUTS = (
    Layout(
        "openr1-math",
        ("problem", "answer", "generations"),
        ("correctness_math_verify", "is_reasoning_complete"),
        openr1,
        "`problem`, `answer`, and of `generations` those that were ended and verified",
    ),
    Layout(
        "verl",
        ("prompt", "reward_model"),
        (),
        verl,
        "the user's text of `prompt` and `reward_model.ground_truth`; no solutions",
        lambda row: isinstance(row["reward_model"], dict) and "ground_truth" in row["reward_model"],
    ),
    Layout(
        "open-thoughts",
        ("problem", "deepseek_reasoning", "deepseek_solution"),
        ("ground_truth_solution",),
        open_thoughts,
        "`problem`, `deepseek_reasoning` with `deepseek_solution`, the last \\boxed of `ground_truth_solution`",
    ),
    Layout(
        "deepmath",
        ("question", "final_answer", "r1_solution_1"),
        R1_SOLUTIONS[1:],
        deepmath,
        "`question`, `final_answer`, `r1_solution_1` to 3",
    ),
    Layout(
        "gsm8k",
        ("question", "answer"),
        (),
        gsm8k,
        "`question`, and of `answer` the gold after #### and the solution before it",
        lambda row: isinstance(row["answer"], str) and "####" in row["answer"],
    ),
    Layout(
        "boxed",
        ("problem", "solution"),
        (),
        boxed,
        "`problem`, `solution` and its last \\boxed as the answer",
        lambda row: "answer" not in row,
    ),
    Layout(
        "messages",
        ("messages",),
        GOLDS,
        conversation("messages"),
        "the user's and the assistant's text of `messages`; answer of its own column, or the last \\boxed",
        is_conversation("messages"),
    ),
    Layout(
        "conversations",
        ("conversations",),
        GOLDS,
        conversation("conversations"),
        "the human's and the model's text of `conversations`; answer of its own column, or the last \\boxed",
        is_conversation("conversations"),
    ),
)
"""The more special before the more general."""


def recognised(rows: list[Row]) -> Layout | None:
    """The first layout that most of the rows are of."""
    for layout in LAYOUTS:
        fitting = [row for row in rows if set(layout.columns) <= row.keys() and layout.fits(row)]
        if len(fitting) * 2 > len(rows):
            return layout
    return None


def by_columns(problem: str, answer: str | None, solution: str | None, gold_needed: bool) -> Callable[[Row], Parts]:
    """What the named columns hold, as it is."""

    def gold(row: Row) -> str:
        if answer is None:
            return ""
        try:
            value = value_at(row, answer)
        except NoSuchColumn:
            if gold_needed:
                raise
            return ""
        return answer_of(value, answer) if gold_needed or value is not None else ""

    def read(row: Row) -> Parts:
        text = text_of(value_at(row, problem), problem)
        traces = traces_of(value_at(row, solution), solution) if solution else []
        return Parts(text, gold(row), tuple(traces))

    return read
