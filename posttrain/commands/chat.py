"""Ask a trained model in the terminal, rendered and sampled as in training and evaluation.

Reads   models/grpo/ or another model folder; `prompts.system` and the sampling of the `evaluate` section
Run     posttrain chat [MODEL_DIR] [--compare MODEL_DIR] [--ask QUESTION]

Every question stands alone, as in training: there is no conversation. What a model writes is shown with its control
characters spelt out, so it cannot act on the terminal.
"""

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.judge.answers import declared_answer
from posttrain.outputs.parents import require_out
from posttrain.params.schema import Evaluate, Params
from posttrain.paths import GRPO_MODEL, SFT_MODEL
from posttrain.prompts import THINK_CLOSE, THINK_OPEN, prompt_messages
from posttrain.templates import render
from posttrain.terminal import harmful, spelt

PUBLISHED = {GRPO_MODEL: "grpo", SFT_MODEL: "sft"}
GAP = "  |  "


@dataclass(frozen=True)
class Reply:
    completion: str
    finished: bool
    """Ended by itself, not by the limit on tokens."""

    @property
    def thoughts(self) -> str | None:
        """What the <think> block holds; None if there is no such block."""
        start, end = self.completion.find(THINK_OPEN), self.completion.find(THINK_CLOSE)
        return self.completion[start + len(THINK_OPEN) : end].strip() if 0 <= start < end else None

    @property
    def answer(self) -> str | None:
        return declared_answer(self.completion)


Model = Callable[[str], Reply]


def run(params: Params, model: Path | None, compare: Path | None, ask: str | None) -> None:
    """Answer one question, or all that are typed until the end of input."""
    folders = [model or GRPO_MODEL, *([compare] if compare else [])]
    if ask is not None and not ask.strip():
        raise InputError(
            "--ask", got="an empty question", wanted="a problem", do='posttrain chat --ask "Solve: 3x = 6"'
        )
    for folder in folders:
        require_model(folder)
    models = [(str(folder), load(folder, params)) for folder in folders]
    for question in [ask] if ask is not None else typed():
        print("\n".join(page([(name, answer(question)) for name, answer in models], terminal_width())), flush=True)


def require_model(folder: Path) -> None:
    """Raises: InputError if there is no model in the folder, or a stage's that is half-written or changed."""
    made_by = PUBLISHED.get(Path(str(folder).rstrip("/")))
    if made_by is not None:
        require_out(folder, made_by)
    elif not (folder / "config.json").is_file():
        raise InputError(
            str(folder),
            got="no config.json there" if folder.is_dir() else "no such folder",
            wanted="a model in transformers' format",
            do=f"name one, such as {GRPO_MODEL}, which `posttrain grpo` makes",
        )


def load(folder: Path, params: Params) -> Model:
    """The model of a folder as a function from a problem to its reply."""
    from posttrain.training.config import start
    from posttrain.training.models import align_special_tokens, load_model, sample
    from posttrain.training.pretrained import load_tokenizer

    start(params.seed, params.launch)
    tokenizer = load_tokenizer(str(folder), params.model, params.prompts.system)
    model = load_model(str(folder), params.model)
    align_special_tokens(model, tokenizer)
    drawn = sampling(params.evaluate)

    def reply(problem: str) -> Reply:
        prompt = prompt_messages(problem, params.prompts.system)
        require_room(render(tokenizer, prompt), tokenizer, getattr(model.config, "max_position_embeddings", None))
        (sampled,) = sample(model, tokenizer, [prompt], drawn)
        return Reply(sampled.text, sampled.finished)

    return reply


def require_room(prompt: str, tokenizer: Any, positions: int | None) -> None:
    """Raises: InputError for a question that is longer than what the model can read"""
    length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    if positions is not None and length >= positions:
        raise InputError(
            "the question",
            got=f"{length} tokens with what the chat template adds",
            wanted=f"fewer than {positions}, the model's max_position_embeddings",
            do="ask for less at a time",
        )


def sampling(evaluate: Evaluate) -> Any:
    """As in evaluation."""
    from posttrain.generation.engine import Sampling

    return Sampling(evaluate.max_new_tokens, evaluate.temperature, evaluate.top_p)


def typed() -> Iterator[str]:
    """Questions from standard input; a prompt is shown to a person only."""
    prompt = "ask> " if sys.stdin.isatty() else ""
    if prompt:
        print("chat | one problem a line; Ctrl-D ends")
    while True:
        try:
            question = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            print(end="\n" if prompt else "")
            return
        except UnicodeDecodeError as error:
            raise InputError(
                "standard input", got=f"bytes that are no UTF-8: {error.reason}", wanted="text", do="save it as UTF-8"
            ) from None
        if question:
            yield question


# ---------------------------------------------------------------------------------------------------------------------
# What is shown


def page(replies: list[tuple[str, Reply]], width: int) -> list[str]:
    """One reply, or two beside each other if the terminal is wide enough."""
    if len(replies) == 1 or width < 80:
        return [line for name, reply in replies for line in block(name, reply, width)]
    column = (width - len(GAP)) // 2
    left, right = (block(name, reply, column) for name, reply in replies)
    rows = max(len(left), len(right))
    padded = zip(left + [""] * (rows - len(left)), right + [""] * (rows - len(right)), strict=True)
    return [f"{one:{column}}{GAP}{other}".rstrip() for one, other in padded]


def block(name: str, reply: Reply, width: int) -> list[str]:
    """Name, thoughts and answer of one reply; the text as it is if it has not this form."""
    lines = [name]
    if reply.thoughts is None and reply.answer is None:
        lines += ["  (neither thoughts nor an answer; as written:)", *wrapped(reply.completion, width)]
    else:
        lines += ["  thoughts:", *wrapped(reply.thoughts or "(none)", width)]
        lines += ["  answer:", *wrapped(reply.answer or "(none declared)", width)]
    return lines if reply.finished else [*lines, "  (cut off at evaluate.max_new_tokens)"]


def wrapped(text: str, width: int) -> list[str]:
    return [
        f"    {part}"
        for line in printable(text).split("\n")
        for part in textwrap.wrap(line, max(20, width - 4), break_long_words=True) or [""]
    ]


def printable(text: str) -> str:
    """Text without power over a terminal: whatever is no visible character and no line break is spelt out."""
    return "".join(spelt(c) if harmful(c) else c for c in text.expandtabs(4))


def terminal_width() -> int:
    return min(160, shutil.get_terminal_size((100, 24)).columns)
