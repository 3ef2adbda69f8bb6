"""Imported by the fork server: math-verify's parsers and sympy's caches warm up once, workers inherit them.

The first formulas of a kind take ten times as long as later ones, and a worker is new after each time-out.
"""

import contextlib

from posttrain.judge.algebra import UnreadableGold, equal
from posttrain.judge.verifier import decide

FORMULAS = {
    "\\frac{3+\\sqrt{5}}{2}": ["\\frac{3-\\sqrt{5}}{2}", "\\frac{1}{2}(3+\\sqrt{5})", "2.618", "\\dfrac{3+5^{1/2}}{2}"],
    "x^2+4x+4": ["(x+2)^2", "x^2+4x+5", "4+4x+x^2", "\\left(x+2\\right)\\left(x+2\\right)"],
    "y = 2x + 3": ["y=3+2x", "y = 2x - 3", "2x+3"],
    "(1,2)": ["(2,1)", "[1,2]", "1,2"],
    "\\{1,2,3\\}": ["\\{3,2,1\\}", "1,2,3", "\\{1,2\\}", "1 \\text{ and } 2"],
    "(-\\infty,2]\\cup(3,5)": ["(3,5)\\cup(-\\infty,2]", "(-\\infty,2]"],
    "x > 3": ["(3,\\infty)", "3 < x", "x \\geq 3", "x > 4"],
    "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}": [
        "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}",
        "\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}",
    ],
    "\\frac{\\pi}{3}": ["60^\\circ", "\\pi/3", "1.0472", "\\sin^{-1} x", "\\log_2 8", "\\tan 30"],
    "1+2i": ["2i+1", "1-2i", "|1+2i|"],
    "\\text{even}": ["\\text{odd}", "even", "\\text{(A)}"],
    "50\\%": ["0.5", "\\frac{1}{2}", "50"],
    "\\binom{5}{2}": ["5!", "2^{10}", "10", "\\approx 9.9", "5x \\cdot 2", "11 \\text{ cm}^2", "\\$5.50"],
}

for gold, answers in FORMULAS.items():
    decide(gold, answers, 0)
    for answer in answers:  # what `decide` settles without algebra as well
        with contextlib.suppress(UnreadableGold):
            equal(gold, answer)
