"""What a completion declares as its answer."""

import pytest

from posttrain.judge.answers import MAX_ANSWER_CHARS, declared_answer, is_evaluated, last_boxed


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
        ("<answer>$70,000</answer>", "70000"),
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


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        *(
            ("5", answer)
            for answer in ("5", "+5", "5.0", "x = 5", "x=5", "x_1 = 5", "f(2) = 5", "5 = x", "\\theta = 5")
        ),
        *(
            ("5", answer)
            for answer in ("5 cm", "5 km/h", "5\\text{ cm}^2", "\\$5", "5^\\circ", "(5)", "\\mathbf{5}", "\\approx 5")
        ),
        *(("-5", answer) for answer in ("-5", "−5", "x = -5", "(-5)", "- 5")),
        *(("1234", answer) for answer in ("1,234", "1{,}234", "1\\,234", "1.234 \\times 10^3", "1.234 \\cdot 10^{3}")),
        *(("0.5", answer) for answer in ("1/2", "\\frac{1}{2}", ".5", "\\frac12", "0 1/2")),
        *(("\\frac{3}{4}", answer) for answer in ("3/4", "0.75", "6/8", "\\dfrac{3}{4}", "\\frac{-3}{4}", "x = 3/4")),
        # Where no number is asked, math-verify alone decides.
        *((gold, "21+46") for gold in ("2\\sqrt{3}", "x + 1", "(1, 2)", "2x", "\\pi", "x > 5", "5 dollars or so", "")),
    ],
)
def test_evaluated(gold: str, answer: str) -> None:
    assert is_evaluated(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        *(
            ("67", answer)
            for answer in (
                "21+46",
                "x = 21+46",
                "134/2",
                "\\frac{134}{2}",
                "67/1",
                "67^1",
                "67 \\times 1",
                "1 \\cdot 67",
            )
        ),
        *(
            ("6", answer)
            for answer in (
                "3!",
                "\\sqrt{36}",
                "2*3",
                "12-6",
                "|6|",
                "--6",
                "-(-6)",
                "6!",
                "6^1",
                "2 \\cdot 3",
                "12 \\div 2",
            )
        ),
        *(("5", answer) for answer in ("x = 6 = 5", "6 = 5", "2x = 5", "5 = 5", "x + 1 = 5", "1 1/5", "0 5")),
        ("1000", "10^3"),
        ("11", "5 6"),  # which math-verify reads as 11
        ("235", "1 234"),  # and this as 235
        ("1", "1 1/2"),  # and this as 1
        ("\\frac{3}{4}", "\\frac{1}{2}+\\frac{1}{4}"),
        ("x = 5", "x = 2 + 3"),
    ],
)
def test_not_evaluated(gold: str, answer: str) -> None:
    assert not is_evaluated(answer, gold)
