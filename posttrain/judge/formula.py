r"""Two formulas that differ at a point are not equal: most wrong answers, told in microseconds instead of by algebra.

Reads plain LaTeX arithmetic: numbers, letters, + - * / ^, brackets, \frac, \sqrt, \pi, \cdot, \times; alone, after
`name =` or `name <`, or as the parts of a set, pair, interval or matrix. Whatever is not sure to mean the same to
math-verify has no value here, and math-verify decides: functions, `x^10`, `1/2x`, mixed numbers, a letter before a
bracket.
"""

import cmath
import math
import re
import zlib

CLEARLY = 1e-4
"""Relative difference that no rounding explains."""

MAX_DEPTH = 20
MAX_VALUE = 1e12
MAX_EXPONENT = 100

_TOKEN = re.compile(r"\s*(\\[a-zA-Z]+|\\[,!]|[0-9]+(?:\.[0-9]+)?|[a-zA-Z]|\\[{}]|[-+*/^(){}\[\],;])")
_IGNORED = ("\\left", "\\right", "\\,", "\\!")
_TIMES = ("*", "\\cdot", "\\times")
_FRACTION = ("\\frac", "\\dfrac", "\\tfrac")
_CONSTANTS: dict[str, complex] = {"e": math.e, "i": 1j, "\\pi": math.pi}
_NOT_A_VARIABLE = "EIdfgh"
"""Letters that may be constants, differentials or functions."""
_RELATION = re.compile(r"\s*([a-zA-Z])\s*(=|<|>|\\leq?|\\geq?)(?![a-zA-Z])\s*(.*)", re.DOTALL)
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})")
_MATRIX = re.compile(r"\s*\\begin\{([pb]matrix)\}(.*)\\end\{\1\}\s*", re.DOTALL)

Value = tuple[str, tuple[complex, ...]]
"""Shape and parts. Equal shapes can be compared part by part."""


def clearly_differ(gold: str, answer: str) -> bool:
    """True if both have values of one shape and some part differs. False says nothing."""
    left, right = value_of(gold), value_of(answer)
    if left is None or right is None or left[0] != right[0]:
        return False
    return any(abs(a - b) > CLEARLY * max(1.0, abs(a), abs(b)) for a, b in zip(left[1], right[1], strict=True))


def value_of(text: str) -> Value | None:
    """The value of a formula, with each letter a number made from its name; None if it has none here."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in matrix[2].split("\\\\")]
        cells = values([tokenise(cell) for row in rows for cell in row])
        return None if cells is None else (f"matrix {[len(row) for row in rows]}", cells)
    relation = _RELATION.fullmatch(text)
    name, formula = (f"{relation[1]} {relation[2]} ", relation[3]) if relation else ("", text)
    tokens = tokenise(formula)
    ends = tokens[0] + tokens[-1] if inside(tokens) is not tokens else ""
    parts = values(split(inside(tokens)))
    if parts is None:
        return None
    if ends in ("", "\\{\\}"):  # a set, whatever its order, to math-verify also in no brackets
        return f"{name}{len(parts)}", tuple(sorted(parts, key=lambda part: (part.real, part.imag)))
    return f"{name}{ends}{len(parts)}", parts


def values(parts: list[list[str]]) -> tuple[complex, ...] | None:
    """The value of each part; None if one has none."""
    try:
        found = tuple(Parser(part).all() for part in parts)
    except (NoValueError, ArithmeticError):
        return None
    return found if all(cmath.isfinite(value) and abs(value) < MAX_VALUE for value in found) else None


def tokenise(text: str) -> list[str]:
    """Tokens, a comma before a space as a semicolon; empty if a character belongs to none."""
    tokens, position = [], 0
    text = re.sub(r",\s+", ";", _DEGREES.sub("", text).rstrip())
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return []
        position = match.end()
        if match[1] not in _IGNORED:
            tokens.append(match[1])
    return tokens


def inside(tokens: list[str]) -> list[str]:
    """What a set, pair or interval encloses; `tokens` themselves if they are none."""
    if tokens and (tokens[0], tokens[-1]) == ("\\{", "\\}"):
        return tokens[1:-1]
    if tokens and tokens[0] in ("(", "[") and tokens[-1] in (")", "]") and len(split(tokens[1:-1])) > 1:
        return tokens[1:-1]
    return tokens


def split(tokens: list[str]) -> list[list[str]]:
    """Parts between commas that stand in no bracket. `1,000` is no list, `1, 000` is."""
    parts: list[list[str]] = [[]]
    depth = 0
    for number, token in enumerate(tokens):
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(token, 0)
        thousands = number + 1 < len(tokens) and re.fullmatch(r"[0-9]{3}(?:\.[0-9]+)?", tokens[number + 1])
        if depth == 0 and (token == ";" or (token == "," and not thousands)):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


class NoValueError(Exception):
    """The formula is beyond what is read here."""


class Parser:
    """Recursive descent over tokens: sum, product, power, atom."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position, self.depth = [*tokens, ""], 0, 0

    def all(self) -> complex:
        value = self.sum()
        if self.next():
            raise NoValueError
        return value

    def next(self) -> str:
        return self.tokens[self.position]

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise NoValueError

    def sum(self) -> complex:
        value = self.sign() * self.product()
        while self.next() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value += sign * self.product()
        return value

    def sign(self) -> int:
        if self.next() in ("+", "-"):
            return 1 if self.take() == "+" else -1
        return 1

    def product(self) -> complex:
        value = self.power()
        while True:
            if self.next() in _TIMES:
                self.take()
                value *= self.power()
            elif self.next() == "/":
                self.take()
                value /= self.power()
                if self.starts_an_atom():  # 1/2x
                    raise NoValueError
            elif self.starts_an_atom():
                self.refuse_unclear_product()
                value *= self.power()
            else:
                return value

    def starts_an_atom(self) -> bool:
        token = self.next()
        return bool(token) and (token[0].isalnum() or token in ("(", "{", "\\sqrt", "\\pi", *_FRACTION))

    def refuse_unclear_product(self) -> None:
        """5 6 and 5\\frac{1}{2} may be sums, f(x) may be a function."""
        before, after = self.tokens[self.position - 1], self.next()
        if after[0].isdigit() or (before[0].isdigit() and after in _FRACTION) or (before[0].isalpha() and after == "("):
            raise NoValueError

    def power(self) -> complex:
        base = self.atom()
        if self.next() != "^":
            return base
        self.take()
        token = self.next()
        if token != "{" and not (len(token) == 1 and token.isalnum()):
            raise NoValueError
        exponent = self.atom()
        if self.next() == "^" or (token.isdigit() and self.next()[:1].isdigit()):
            raise NoValueError
        if base == 0 or abs(exponent) > MAX_EXPONENT:
            raise NoValueError
        return complex(base) ** exponent

    def atom(self) -> complex:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NoValueError
        value = self._atom(self.take())
        self.depth -= 1
        return value

    def _atom(self, token: str) -> complex:
        if token[:1].isdigit():
            while self.next() == "," and re.fullmatch(r"[0-9]{3}(?:\.[0-9]+)?", self.tokens[self.position + 1]):
                self.take()
                token += self.take()
            return float(token)
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token in _FRACTION:
            return self.argument() / self.argument()
        if token == "\\sqrt":
            return self.root()
        if token in ("(", "{"):
            value = self.sum()
            self.expect(")" if token == "(" else "}")
            return value
        if len(token) == 1 and token.isalpha() and token not in _NOT_A_VARIABLE:
            return 0.3 + zlib.crc32(token.encode()) % 9973 / 10007
        raise NoValueError

    def argument(self) -> complex:
        """In braces: \\frac12 is refused, because the token after \\frac may be 12."""
        if self.next() != "{":
            raise NoValueError
        return self.atom()

    def root(self) -> complex:
        degree = 2.0
        if self.next() == "[":
            self.take()
            degree = float(self.take()) if self.next().isdigit() else 0.0
            self.expect("]")
        value = self.argument()
        if value.imag or value.real < 0 or degree < 2:
            raise NoValueError
        return complex(value.real ** (1 / degree))
