"""Rewards for form as tables: what a completion earns, worked out by hand."""

import time

import pytest

from posttrain.rewards.completion import Completion
from posttrain.rewards.form import code_format, format, reasoning_steps, tag_count
from tests.tutorial import RIGHT


@pytest.mark.parametrize(
    ("text", "form", "tags"),
    [
        (RIGHT, 1.0, 1.0),
        ("<think>a</think><answer>5</answer>", 1.0, 1.0),  # all on one line; open-r1: 0 and 0
        ("\n  <think>a</think>\n\n<answer>5</answer>  \n", 1.0, 1.0),
        ("<think>a < b > c</think><answer>5</answer>", 1.0, 1.0),  # angle brackets that are no tags
        ("<think>a\x00\ud800</think><answer>5</answer>", 1.0, 1.0),
        ("<think>a</think>\u00a0\u3000<answer>5</answer>", 1.0, 1.0),  # blanks of other scripts
        # Three quarters: one tag of four is not there, or there twice.
        ("a</think><answer>5</answer>", 0.0, 0.75),
        ("<think>a<answer>5</answer>", 0.0, 0.75),
        ("<think>a</think>5</answer>", 0.0, 0.75),
        ("<think>a</think><answer>5", 0.0, 0.75),  # cut off
        ("<think><think>a</think><answer>5</answer>", 0.0, 0.75),
        ("<think><think>\na\n</think>\n<answer>\n5\n</answer>", 0.0, 0.75),  # open-r1's tag_count: 1
        ("<think>\n<think>\na\n</think>\n<answer>\n5\n</answer>", 0.0, 0.75),  # open-r1's format: 1
        # A half.
        ("<answer>5</answer>", 0.0, 0.5),
        ("<think>a</think>5", 0.0, 0.5),
        ("<think>a</think><answer>5</answer><answer>6</answer>", 0.0, 0.5),
        ("<think>\na\n</think>\n<answer>\n5\n</answer>\n<answer>\n6\n</answer>", 0.0, 0.5),  # open-r1's format: 1
        ("<think>a</think><think>b</think><answer>5</answer>", 0.0, 0.5),
        ("<think>a <think>b</think> c</think><answer>5</answer>", 0.0, 0.5),  # nested
        ("<think>a</think><answer><answer>5</answer></answer>", 0.0, 0.5),
        # A quarter and nothing.
        ("<think>a", 0.0, 0.25),
        ("5", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("<think>a</think><answer>5</answer>" * 2, 0.0, 0.0),
        ("<THINK>a</THINK><ANSWER>5</ANSWER>", 0.0, 0.0),
        ("< think>a</ think>< answer>5</ answer>", 0.0, 0.0),
        # All four tags once, yet not the form.
        ("<think>a</think><answer>5</answer> as shown", 0.0, 1.0),
        ("<think>\na\n</think>\n<answer>\n5\n</answer>\nas shown", 0.0, 1.0),  # open-r1's MULTILINE hole: 1
        ("<think>a</think><answer>5</answer>\x00", 0.0, 1.0),
        ("Well. <think>a</think><answer>5</answer>", 0.0, 1.0),
        ("<think>a</think> so <answer>5</answer>", 0.0, 1.0),
        ("<answer>5</answer><think>a</think>", 0.0, 1.0),
        ("<think>a<answer>5</answer></think>", 0.0, 1.0),  # the answer within the thoughts
        ("<think>a<answer></think>5</answer>", 0.0, 1.0),  # crossed
        ("<think></answer>a</think><answer>5", 0.0, 1.0),  # closed before it is open
        ("</answer></think>a<answer>5<think>", 0.0, 1.0),
        ("<think></think><answer>5</answer>", 0.0, 1.0),
        ("<think> \n </think><answer>5</answer>", 0.0, 1.0),
        ("<think>a</think><answer></answer>", 0.0, 1.0),
        ("<think>\n\n</think>\n<answer>\n\n</answer>", 0.0, 1.0),  # nothing in either block; open-r1: 1
    ],
)
def test_format_and_tag_count(text: str, form: float, tags: float) -> None:
    completion = Completion(text)
    assert (format(completion), tag_count(completion)) == (form, tags)


@pytest.mark.parametrize("correct", [True, False, None])
def test_form_does_not_look_at_the_verdict(correct: bool | None) -> None:
    completion = Completion("<think>1. a</think><answer>5</answer>", correct=correct)
    assert (format(completion), tag_count(completion), reasoning_steps(completion, 2)) == (1.0, 1.0, 0.5)


def thoughts(text: str) -> Completion:
    return Completion(f"<think>{text}</think><answer>5</answer>")


@pytest.mark.parametrize(
    ("completion", "steps", "score"),
    [
        # Numbered and bulleted lines.
        (thoughts("1.\n2.\n3."), 3, 1.0),  # open-r1 without the tags: 1/3, only the first
        (thoughts("\n1. a\n2. b\n3. c\n"), 3, 1.0),  # open-r1: 0, for the text begins with <think>
        (thoughts("- a\n- b"), 4, 2 / 4),  # open-r1 counts one, for the first follows no line end
        (thoughts("\n* a\n\t* b\n   12. c\r\n- d"), 5, 4 / 5),
        (thoughts("1. a 2. b - c * d"), 5, 1 / 5),  # within a line they are no steps
        (thoughts("x\n-5\n-x = 3\n**bold**\n---\n***\n2.5\n3.x\n4"), 5, 0.0),  # no items; open-r1: 1, 5 of 3
        # Ordering words, each once.
        (thoughts("First,First,First,"), 3, 1 / 3),  # open-r1: 1
        (thoughts("First, a. Second, b. Next, c. Finally, d."), 4, 1.0),
        (thoughts("Next, a.\nNext, b.\nNext, c."), 4, 1 / 4),
        (thoughts("Step 1: a Step 2: b Step 2: c"), 4, 2 / 4),
        (thoughts("**Step 1:** a\n### Step 2: b"), 4, 2 / 4),
        (thoughts("First a, second, next, FIRST, Step: Step one: step 1: HeadFirst,"), 4, 0.0),
        # Both.
        (thoughts("1. First, a\n2. Next, b"), 8, 4 / 8),
        (thoughts("- a\nFirst, b"), 3, 2 / 3),
        # `steps` is the divisor and one is the most.
        (thoughts("- a\n- b\n- c"), 1, 1.0),
        (thoughts("- a\n- b\n- c"), 2, 1.0),
        (thoughts("- a\n- b\n- c"), 10, 3 / 10),
        # Only thoughts count.
        (Completion("<think>a</think><answer>\n- a\n- b\n- c\n</answer>"), 3, 0.0),  # open-r1: 1
        (Completion("- a\n- b\n- c"), 3, 0.0),
        (Completion("<think>\n- a\n- b\n- c"), 3, 0.0),  # never closed
        (Completion("- a\n</think>\n- b"), 3, 0.0),
        (Completion("</think>\n- a\n<think>\n- b"), 3, 0.0),  # closed before it is open
        (Completion("- a\n<think>- b</think>- c\n- d"), 3, 1 / 3),
        (Completion("<think>- a</think><think>- b</think>"), 3, 1 / 3),  # the first block
        (Completion("<think>- a<think>\n- b</think>\n- c</think>"), 3, 2 / 3),  # nested: up to the first </think>
        (Completion("</think><think>- a</think>"), 3, 1 / 3),
        (thoughts(""), 3, 0.0),
        (thoughts("\x00\ud800\n- \ud800"), 2, 1 / 2),
        (Completion(""), 3, 0.0),
    ],
)
def test_reasoning_steps(completion: Completion, steps: int, score: float) -> None:
    assert reasoning_steps(completion, steps) == score


def answer(text: str) -> Completion:
    return Completion(f"<think>a</think>\n<answer>{text}</answer>")


@pytest.mark.parametrize(
    ("completion", "language", "score"),
    [
        (answer("\n```python\nprint(5)\n```\n"), "python", 1.0),
        (answer("```python\nprint(5)\n```"), "python", 1.0),
        (answer("\nThis prints 5:\n\n```python\nprint(5)\n```\nDone.\n"), "python", 1.0),
        (answer("\n```python \r\nprint(5)\r\n``` \r\n"), "python", 1.0),  # blanks at the end of a fence
        (answer("\n```python\ns = '```'\n```\n"), "python", 1.0),  # backticks within a line are no fence
        (answer("\n```c++\nint x;\n```\n"), "c++", 1.0),
        (answer("\n```python\n\x00\ud800\n```\n"), "python", 1.0),
        # Another language.
        (answer("\n```c\nint x;\n```\n"), "c++", 0.0),  # open-r1: 1, for `c++` is a pattern there
        (answer("\n```python3\nprint(5)\n```\n"), "python", 0.0),  # open-r1: 1
        (answer("\n```Python\nprint(5)\n```\n"), "python", 0.0),
        (answer("\n``` python\nprint(5)\n```\n"), "python", 0.0),
        (answer("\n```\nprint(5)\n```\n"), "python", 0.0),
        (answer("\n```python\nprint(5)\n```\n"), "cpp", 0.0),
        # Not one fenced block.
        (answer("print(5)"), "python", 0.0),
        (answer("\n```python\nprint(5)\n"), "python", 0.0),  # never closed
        (answer("\nprint(5)\n```\n"), "python", 0.0),
        (answer("\n```python\nprint(5)\n```python\n"), "python", 0.0),
        (answer("\n```python\n```\n"), "python", 0.0),  # nothing in it; open-r1: 1
        (answer("\n```python\n \n\n```\n"), "python", 0.0),
        (answer("\n```python\nprint(5)\n```\n" * 2), "python", 0.0),  # two blocks; open-r1: 1
        (answer("\n```python\nprint(5)\n```\n```text\n5\n```\n"), "python", 0.0),
        (answer("\n```python\nprint(5)\n```\n```\n"), "python", 0.0),
        (answer("So ```python\nprint(5)\n```\n"), "python", 0.0),  # no line of its own
        (answer("\n```python\nprint(5)```\n"), "python", 0.0),
        (answer("\n```python print(5)\n```\n"), "python", 0.0),
        (answer("\n````python\nprint(5)\n````\n"), "python", 0.0),
        (answer(""), "python", 0.0),
        # Not in the answer, or not in good form.
        (Completion("```python\nprint(5)\n```"), "python", 0.0),
        (Completion("<think>\n```python\nprint(5)\n```\n</think><answer>5</answer>"), "python", 0.0),
        (Completion("<think>\n```python\n</think><answer>print(5)\n```\n</answer>"), "python", 0.0),
        (Completion("<answer>\n```python\nprint(5)\n```\n</answer>"), "python", 0.0),
        (Completion("<think></think><answer>\n```python\nprint(5)\n```\n</answer>"), "python", 0.0),
        (Completion("<think>a</think><answer>\n```python\nprint(5)\n```\n</answer>\nas shown"), "python", 0.0),
        (Completion("<think>a</think>" + "<answer>\n```python\nprint(5)\n```\n</answer>" * 2), "python", 0.0),
        (Completion(""), "python", 0.0),
        # A block in the thoughts is a draft and does no harm.
        (Completion("<think>```python\n1\n```</think><answer>\n```python\n5\n```\n</answer>"), "python", 1.0),
    ],
)
def test_code_format(completion: Completion, language: str, score: float) -> None:
    assert code_format(completion, language) == score


SIZE = 400_000
"""Long enough that time that grows with the square of it takes minutes."""

HOSTILE = {
    "blanks": " ",
    "line ends": "\n",
    "null bytes": "\x00",
    "lone surrogates": "\ud800",
    "angle brackets": "<",
    "think": "<think>",
    "crossed": "</think><answer>",
    "all tags": "<think></think><answer></answer>",
    "blocks": "<think>a</think><answer>5</answer>",
    "tags and blanks": "</think>  \n<answer>  \n",
    "digits": "1",
    "numbers": "1.\n",
    "bullets": " \t-\n",
    "ordering words": "First,Step 1",
    "backticks": "`",
    "fences": "```\n",
    "opened fences": "```python\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_no_longer_than_its_length(name: str) -> None:
    body = HOSTILE[name] * (SIZE // len(HOSTILE[name]))
    texts = [body, f"<think>a{body}</think><answer>{body}5</answer>", f"<think>{body}", f"{body}</answer>"]
    started = time.process_time()
    for text in texts:
        completion = Completion(text)
        scores = [format(completion), tag_count(completion), reasoning_steps(completion, 3)]
        assert all(0.0 <= score <= 1.0 for score in [*scores, code_format(completion, "python")])
    assert time.process_time() - started < 1.5
