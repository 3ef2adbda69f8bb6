"""What a completion declares as its answer."""

import pytest

from stages.answers import declared_answer, last_boxed


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>\n15 / 3 = 5\n</think>\n<answer>\nx = 5\n</answer>", "x = 5"),
        ("<answer>5</answer>", "5"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),  # the last block wins
        ("<answer>1</answer> no: <answer>2", "1"),  # the last *closed* block
        ("<answer>1 <answer>2</answer>", "2"),  # opened twice: from the nearest tag on
        ("<answer>1</answer> 2</answer>", "1</answer> 2"),  # closed twice: up to the last tag, which is no number
        ("<answer>5</answer> so it is 6", "5"),
        ("<think>5</think>", None),
        ("<think>the answer is \\boxed{5}</think>", None),
        ("the answer is 5", None),
        ("", None),
        ("<answer>5", None),
        ("5</answer>", None),
        ("</answer>5<answer>", None),
        ("<ANSWER>5</ANSWER>", None),  # tags are matched to the letter
        ("<answer></answer>", None),
        ("<answer> \n\t </answer>", None),
        ("<answer>$ $</answer>", None),
        ("<answer>1</answer><answer></answer>", None),  # the last block counts, and it is empty
        ("<answer>$5$</answer>", "5"),
        ("<answer>$$x = 5$$</answer>", "x = 5"),
        ("<answer> $ 5 $ </answer>", "5"),
        ("<answer>$70,000</answer>", "70,000"),
        ("<answer>It is \\boxed{5}.</answer>", "5"),
        ("<answer>\\boxed{4} or rather \\boxed{5}</answer>", "5"),
        ("<answer>$\\boxed{\\frac{1}{2}}$</answer>", "\\frac{1}{2}"),
        ("<answer>\\boxed{$5$}</answer>", "5"),
        ("<answer>\\boxed{5</answer>", "\\boxed{5"),  # never closed: the block as it stands
        ("<think>\\boxed{4}</think><answer>5</answer>", "5"),
        ("<answer>line one\nline two</answer>", "line one\nline two"),
    ],
)
def test_declared_answer(completion: str, answer: str | None) -> None:
    assert declared_answer(completion) == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{5}", "5"),
        ("so \\boxed{5}, as was to be shown", "5"),
        ("\\boxed{4} then \\boxed{5}", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{{{5}}}", "{{5}}"),
        ("\\boxed{a} {b}", "a"),
        ("\\boxed{outer \\boxed{inner}}", "inner"),
        ("\\boxed{}", ""),
        ("\\boxed{5", None),
        ("\\boxed{\\frac{1}{2}", None),
        ("\\boxed{4} then \\boxed{5", None),
        ("\\boxed 5", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content
