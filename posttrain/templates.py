"""What a model's chat template does to a conversation, found by rendering conversations with it.

A template is a program that came with the model. It may cut the thoughts out of what the assistant said, open
`<think>` itself, trim, refuse a system message, write the date. So nothing is trained on as a template renders a reply:
it renders the prompt, SFT trains what the model has to write after that, and whoever reads a completion gets what the
prompt has opened back in front of it.

Standard library only: training, evaluation in both environments and chat ask here.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from posttrain.errors import InputError
from posttrain.processes.bounded import Unbounded, bounded
from posttrain.prompts import THINK_CLOSE, THINK_OPEN, Message, completion_text, prompt_messages

TODAY = date(2024, 7, 26)
"""The date for templates that write today's: equal params give equal prompts on any day."""
NOW = re.compile(r"""strftime_now\(\s{0,9}(['"])(.{0,200}?)\1\s{0,9}\)""")
CLOCK = re.compile(r"strftime_now\s*\(")
MEND = "mend `chat_template.jinja` in a folder of the model under models/base/, or use another model"

EXAMPLES = (
    ("Solve: 3x - 5 = 10", completion_text("3x = 10 + 5 = 15\n\nx = 15 / 3", "x = 5")),
    ("What is 7 plus 8?", completion_text("Add them.", "15")),
)
"""Problems and traces with which a template is tried where there are none of the data."""
LONG = "What is 7 plus 8?\n" + "Add <b>them</b>, then 3x = 15.\n" * 256
"""A problem of 8,000 characters: what takes the square of a text's length shows in it."""
CPU_S = 2.0
"""For all trials of a template; those of well-known models take hundredths."""
MOST_TEXT = 2**16
"""Characters that a template may add to a conversation."""


@dataclass(frozen=True)
class Turn:
    """What a template writes around what the assistant says."""

    lead: str
    """White space between the prompt and the reply."""
    end: str
    """The end token, with the white space before and after it."""


# ---------------------------------------------------------------------------------------------------------------------
# Prompts and what is written after them


def render(tokenizer: Any, messages: list[Message], *, reply: bool = True) -> str:
    """A conversation as text; with `reply`, up to the point where the model writes."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply))


def opened(prompt: str, problem: str) -> str:
    """What a rendered prompt has begun in the model's place: `<think>` and what follows it, or nothing.

    A completion as a person, a reward and the answer's judge read it is this and what the model wrote.
    """
    problem = problem.strip()
    after = prompt.rpartition(problem)[2] if problem else prompt
    tag = after.rfind(THINK_OPEN)
    return after[tag:] if tag >= 0 and THINK_CLOSE not in after[tag:] else ""


def closes_thoughts(prompt: str, problem: str) -> bool:
    """Whether a rendered prompt ends with a block of thoughts that is over before the model writes."""
    after = prompt.rpartition(problem.strip())[2].rstrip()
    return after.endswith(THINK_CLOSE) and THINK_OPEN in after


def training_text(tokenizer: Any, turn: Turn, prompt: list[Message], trace: str) -> tuple[str, str]:
    """The prompt as it is rendered, and what the model has to write after it."""
    text = render(tokenizer, prompt)
    return text, reply_text(turn, text, prompt[-1]["content"], trace)


def reply_text(turn: Turn, prompt: str, problem: str, trace: str) -> str:
    """What the model has to write after a rendered prompt: the rest of the trace, and the end."""
    begun = opened(prompt, problem)
    there = next(
        (at for at, (a, b) in enumerate(zip(begun, trace, strict=False)) if a != b), min(len(begun), len(trace))
    )
    return turn.lead + trace[there:] + turn.end


# ---------------------------------------------------------------------------------------------------------------------
# Can it be used?


def pin_date(tokenizer: Any) -> None:
    """Write the date into a template that asks for today's; a published model keeps it so."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: pinned(text) for name, text in template.items()}
    elif template is not None:
        tokenizer.chat_template = pinned(template)


def pinned(template: str) -> str:
    return NOW.sub(lambda call: json.dumps(TODAY.strftime(call[2])), template)


def require_bounded(
    tokenizer: Any, where: str, system: str | None, examples: Sequence[tuple[str, str]] = EXAMPLES
) -> None:
    """A template is a program: it is tried in a process that may be killed before it is compiled in this one.

    Raises: InputError if it needs more than CPU_S for a few conversations, fills memory, or writes without end
    """
    tried = [
        (prompt_messages(problem, one), trace)
        for problem, trace in (*examples, (LONG, EXAMPLES[0][1]))
        for one in dict.fromkeys((system, None))
    ]
    asked = [prompt for prompt, _ in tried]
    said: list[list[Message]] = [[*prompt, {"role": "assistant", "content": trace}] for prompt, trace in tried]

    def added() -> list[int]:
        return [
            len(text) - sum(len(message["content"]) for message in messages)
            for conversations, reply in ((asked, True), (said, False))
            for messages in conversations
            for text in rendered(tokenizer, messages, reply=reply)
        ]

    try:
        most = max(bounded(added, CPU_S) or [0])
    except Unbounded as error:
        raise unusable(where, f"{error} for {2 * len(tried)} conversations", "one that renders each at once") from None
    if most > MOST_TEXT:
        raise unusable(where, f"adds {most} characters to a conversation", f"{MOST_TEXT} at most")


def rendered(tokenizer: Any, messages: list[Message], *, reply: bool) -> list[str]:
    """The conversation as text; nothing where the template fails on it, but for want of memory."""
    try:
        return [render(tokenizer, messages, reply=reply)]
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the template is a program of somebody else's: it may raise anything
        return []


def require_turn(
    tokenizer: Any, where: str, system: str | None, examples: Sequence[tuple[str, str]] = EXAMPLES
) -> Turn:
    """What the template writes around each of the traces; the end is the same for all.

    Raises: InputError saying why no model can be trained with this template.
    """
    if tokenizer.chat_template is None:
        raise InputError(
            where,
            got="a tokenizer without a chat template",
            wanted="a chat template, which renders a problem into the prompt of training and evaluation",
            do="use an instruct model, or set `chat_template` in its tokenizer_config.json",
        )
    require_bounded(tokenizer, where, system, examples)
    turns = [turn_of(tokenizer, where, system, problem, trace) for problem, trace in examples]
    if len(ends := {turn.end for turn in turns}) > 1:
        raise unusable(where, f"ends the assistant's turns differently: {sorted(ends)}", "one end of a turn")
    return max(turns, key=lambda turn: len(turn.lead))  # none is found of a reply that is written anew


def turn_of(tokenizer: Any, where: str, system: str | None, problem: str, trace: str) -> Turn:
    """The turn of one trace."""
    asked = prompt_messages(problem, system)
    prompt = try_to_render(tokenizer, asked, where)
    require_words(tokenizer, where, prompt, asked)
    said = try_to_render(tokenizer, [*asked, {"role": "assistant", "content": trace}], where, reply=False)
    _, last_line, ending = said.rpartition(trace.strip().splitlines()[-1])
    if not last_line:
        raise unusable(where, "leaves out what the assistant says", "the reply as it was said, up to its thoughts")
    return Turn(lead_of(prompt, said, problem, trace), require_end(tokenizer, where, ending))


def lead_of(prompt: str, said: str, problem: str, trace: str) -> str:
    """What stands before the reply; some templates write the system prompt only where no reply follows."""
    asks, answers = (text.partition(problem.strip())[2] for text in (prompt, said))
    reply = answers.removeprefix(asks)
    verbatim = answers.startswith(asks) and reply.lstrip().startswith(trace.strip())
    return reply[: len(reply) - len(reply.lstrip())] if verbatim and not opened(prompt, problem) else ""


def require_end(tokenizer: Any, where: str, ending: str) -> str:
    """The end token that follows the reply at once, and the white space around it."""
    token = tokenizer.eos_token
    found = re.match(rf"\s*{re.escape(token)}\s*", ending) if token else None
    if found is not None:
        return found[0]
    raise InputError(
        where,
        got=f"a chat template that ends the assistant's turn with {ending!r}, and "
        + (f"the end-of-sequence token {token!r}" if token else "no end-of-sequence token"),
        wanted="the end-of-sequence token right after the reply; without it generation never stops",
        do="set `eos_token` in tokenizer_config.json to the token that ends a turn",
    )


def try_to_render(tokenizer: Any, messages: list[Message], where: str, *, reply: bool = True) -> str:
    """The conversation as text, the same a second time.

    Raises: InputError naming `prompts.system` if that is what the template fails on, else the template.
    """
    try:
        first, second = (render(tokenizer, messages, reply=reply) for _ in range(2))
    except Exception as error:  # noqa: BLE001 - the template is a program of somebody else's: it may raise anything
        why = " ".join(str(error).split())[:200] or type(error).__name__
        if messages[0]["role"] == "system":
            try_to_render(tokenizer, messages[1:], where, reply=reply)
            raise refused_system(where, f"fails on it: {why}") from None
        raise unusable(where, f"fails: {why}", "one that renders a problem and its reply") from None
    if first != second or CLOCK.search(str(tokenizer.get_chat_template())):
        raise unusable(where, "renders one conversation differently at another time", "equal prompts for equal params")
    return first


def require_words(tokenizer: Any, where: str, prompt: str, asked: list[Message]) -> None:
    """Raises: InputError if the problem or the system prompt does not get into the prompt."""
    if asked[-1]["content"].strip() not in prompt:
        raise unusable(where, f"renders a problem as {prompt!r:.200}", "the problem in the prompt, word for word")
    if asked[0]["role"] == "system" and prompt == without_system(tokenizer, asked):
        raise refused_system(where, "leaves it out")


def without_system(tokenizer: Any, asked: list[Message]) -> str | None:
    try:
        return render(tokenizer, asked[1:])
    except Exception:  # noqa: BLE001 - as in try_to_render; a template may demand a system prompt
        return None


def refused_system(where: str, what: str) -> InputError:
    return InputError(
        "params.yaml: prompts.system",
        got=f"a system prompt, and the chat template of {where} {what}",
        wanted="null, or a template with a system prompt",
        do="set prompts.system to null; what it says can stand in the problems",
    )


def unusable(where: str, what: str, wanted: str) -> InputError:
    return InputError(where, got=f"a chat template that {what}", wanted=wanted, do=MEND)
