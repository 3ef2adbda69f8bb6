"""What a completion declares as its answer."""

import pytest

from posttrain.judge.answers import MAX_ANSWER_CHARS, declared_answer, last_boxed


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>\n15 / 3 = 5\n</think>\n<answer>\nx = 5\n</answer>", "x = 5"),
        ("<answer>5</answer>", "5"),
        ("<answer>1</answer> no: <answer>2</answer>", None),  # a second block is a second try
        ("<answer>5</answer><answer>5</answer>", None),
        ("<answer>1</answer> no: <answer>2", None),
        ("<answer>1 <answer>2</answer>", None),
        ("<answer>1</answer> 2</answer>", None),
        ("<think>They ask for <answer>4</answer>.</think><answer>5</answer>", "5"),  # quoted in the thoughts
        ("<think><answer>5</answer></think>", None),
        ("<answer>5</answer></think>", None),  # all of it was thought
        ("<think>a</think><answer>5</answer><think>b</think>", None),
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
        ("<answer>1</answer><answer></answer>", None),
        ("<answer>5.</answer>", "5"),  # a full stop ends a sentence, not a number
        ("<answer>$5$.</answer>", "5"),
        ("<answer>\\boxed{5.}</answer>", "5"),
        ("<answer>.</answer>", None),
        ("<answer>5}{6</answer>", None),  # would leave the box that math-verify reads
        ("<answer>\\{1, 2\\}</answer>", "\\{1, 2\\}"),
        ("<answer>" + "5" * MAX_ANSWER_CHARS + "</answer>", "5" * MAX_ANSWER_CHARS),
        ("<answer>" + "5" * (MAX_ANSWER_CHARS + 1) + "</answer>", None),
        ("<answer>$5$</answer>", "5"),
        ("<answer>$$x = 5$$</answer>", "x = 5"),
        ("<answer> $ 5 $ </answer>", "5"),
        ("<answer>$70,000</answer>", "$70,000"),
        ("<answer>It is \\boxed{5}.</answer>", "5"),
        ("<answer>\\boxed{4} or rather \\boxed{5}</answer>", "5"),
        ("<answer>$\\boxed{\\frac{1}{2}}$</answer>", "\\frac{1}{2}"),
        ("<answer>\\boxed{$5$}</answer>", "5"),
        ("<answer>\\boxed{5</answer>", None),  # never closed
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
        ("\\boxed{4}, \\boxed{5}", "4, 5"),
        ("$\\boxed{4}$ \\quad \\text{and} \\quad $\\boxed{5}$", "4, 5"),
        ("\\boxed{3} but then \\boxed{4} or \\boxed{5}", "4, 5"),
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
