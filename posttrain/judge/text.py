r"""One spelling for what is written in many: Unicode, Markdown, LaTeX's wrappers and synonyms, plain-text formulas.

`plain` loses nothing that distinguishes two answers. What comes out is LaTeX of a few commands, in one line. Standard
library only: lighteval's environment imports `answers`, which imports this.
"""

import re
import unicodedata
from functools import lru_cache

SIGNS = {
    **dict.fromkeys("−–—‒﹣－", "-"),
    **dict.fromkeys("×✕⨯", r"\times "),
    **dict.fromkeys("·⋅∙•∗＊⊗", r"\cdot "),
    **dict.fromkeys("∕⁄÷／", "/"),
    **dict.fromkeys("∶：", ":"),
    **dict.fromkeys("（", "("),
    **dict.fromkeys("）", ")"),
    **dict.fromkeys("，、", ","),
    **dict.fromkeys("′’‘", "'"),
    **{"＋": "+", "＝": "=", "．": ".", "％": "%", "﹪": "%", "°": r"^\circ ", "º": r"^\circ ", "∞": r"\infty "},
    **{"π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "φ": r"\phi "},
    **{"≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm "},
    **{"∓": r"\mp ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}"},
    **{"ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "…": r"\dots "},
}
_SIGNS = str.maketrans(SIGNS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓ", "0123456789+-()nx")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}

_RULES: list[tuple[str, str]] = [
    # delimiters and what only looks
    (r"\\\\\[[^\[\]]{0,9}\]", r"\\\\ "),  # \\[4pt] of a matrix is no \[
    (r"(?<!\\)\\[()\[\]]", " "),
    (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|rm|it|bf)(?![a-zA-Z])\.?", ""),
    (r"\\(?:hspace|vspace|hphantom|phantom|label|tag)\*?\{[^{}]*\}", " "),
    (r"(?<=[0-9]),?(?:\\[,!;: ]|\{,\}(?:\\!)?|~|\\)(?=\s?[0-9]{3}(?![0-9]))\s?", ","),  # between thousands
    (r"\{,\}", ","),
    (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\s+", " "),
    (r"(?<!\\)\\!|\\allowbreak|(?<!\\)\\/", ""),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\(?:leqslant|leq|leqq)(?![a-zA-Z])", r"\\le "),
    (r"\\(?:geqslant|geq|geqq)(?![a-zA-Z])", r"\\ge "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\neq(?![a-zA-Z])", r"\\ne "),
    (
        r"\\(?:lbrace|rbrace|lbrack|rbrack)(?![a-zA-Z])",
        lambda m: {"lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]"}[m[0][1:]],
    ),  # type: ignore[list-item]
    (r"\\(?:simeq|cong|doteq|thickapprox)(?![a-zA-Z])", r"\\approx "),
    (r"\\(?:ast|cdotp|bullet)(?![a-zA-Z])", r"\\cdot "),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\colon(?![a-zA-Z])", ":"),
    (r"\\(?:ldots|cdots|dotsc|dotsb)(?![a-zA-Z])", r"\\dots "),
    (r"\\(?:varnothing)(?![a-zA-Z])", r"\\emptyset "),
    (r"\\(?:implies|Rightarrow|Longrightarrow|rightarrow|to)(?![a-zA-Z])\s*$", ""),
    (r"\\(?:degrees?)(?![a-zA-Z])|\^\s*\{?\s*\\circ\s*\}?", r"^\\circ "),
    (r"\\%", "%"),
    (r"\\(?:pounds|textsterling)(?![a-zA-Z])", "£"),
    (r"\\(?:euro|texteuro)(?![a-zA-Z])", "€"),
    # formulas in plain text
    (r"\*\*", "^"),
    (r"\^\s*\(([^()^]*)\)", r"^{\1}"),
    (r"\^\s*([+-]?[0-9]{2,})", r"^{\1}"),
    (r"\^\s*([+-][0-9a-zA-Z])", r"^{\1}"),
    (r"\*", r"\\cdot "),
    (r"(?<![\\a-zA-Z])(pi|theta|infty|alpha|beta)(?![a-zA-Z])", r"\\\1 "),
    (r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
    (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![\\a-zA-Z])sqrt\s*([0-9]+)", r"\\sqrt{\1}"),
    (r"(?<![\\a-zA-Z])(sin|cos|tan|cot|log|ln|exp)(?=\s*\(|\s+[a-zA-Z0-9\\])", r"\\\1"),
    (r"(?<![\\a-zA-Z])(sec|csc)(?=\s*\()", r"\\\1"),
    (r"<=|=<", r"\\le "),
    (r">=", r"\\ge "),
    (r"!=", r"\\ne "),
    (r"\+/-|\+-", r"\\pm "),
    # fractions and roots without their braces
    (r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])(?![a-zA-Z])", r"\\frac{\1}{\2}"),
    (r"\\frac\s*([0-9a-zA-Z]|\\pi)\s*\{", r"\\frac{\1}{"),
    (r"\\frac\s*(\{[^{}]*\}|\\pi)\s*([0-9a-zA-Z]|\\pi)(?![a-zA-Z])", r"\\frac\1{\2}"),
    (r"\\frac\s*\\pi", r"\\frac{\\pi}"),
    (r"\\sqrt\s*([0-9a-zA-Z])(?![a-zA-Z])", r"\\sqrt{\1}"),
    (r"\\(frac|sqrt)\s+(?=[{\[])", r"\\\1"),
    (r"\+\s*\\infty", r"\\infty"),
]
_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]
_TEXTUAL = re.compile(
    r"\\(text(?:bf|it|rm|sf|tt|normal|up|sc)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm"
    r"|operatorname\*?|fbox|boxed|emph|underline|ensuremath|displaylines|large|Large)\s*\{"
)
_FUNCTIONS = {"arcsin", "arccos", "arctan", "sin", "cos", "tan", "cot", "csc", "log", "ln", "exp", "gcd"}
_FUNCTIONS |= {"sinh", "cosh", "tanh", "det", "lim"}
_LEAD = re.compile(
    r"^(?:(?:so|thus|hence|therefore|final|the|my|our)[\s,]+)*(?:final\s+)?(?:answer|result|solution|value)\s*"
    r"(?:(?:is|are|equals)(?![a-z])\s*:?|[:=])\s*",
    re.IGNORECASE,
)
_SIMPLE = re.compile(r"[+-]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
_BOLD = re.compile(r"\*\*|__|`")


@lru_cache(maxsize=2**14)
def plain(text: str) -> str:
    """The text in one spelling, without what encloses or ends it."""
    if _SIMPLE.fullmatch(text):  # as most answers are
        return text
    text = _unicode(_markdown(text.strip()))
    text = _dollars(text)
    text = _unwrapped(text)
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    text = _LEAD.sub("", " ".join(text.split()))
    return without_end(text)


def without_end(text: str) -> str:
    """Without punctuation, dots and line breaks at the end, and without = or : at the beginning."""
    while True:
        shorter = re.sub(r"(?:\\dots|\\\\|[.,;:]|(?<![a-zA-Z])\\)$", "", text.strip()).strip()
        shorter = re.sub(r"^[=:]\s*", "", shorter)
        if shorter[:1] == "{" and shorter[-1:] == "}" and encloses(shorter):
            shorter = shorter[1:-1].strip()
        if shorter == text:
            return text
        text = shorter


def encloses(text: str) -> bool:
    """The first bracket of a text closes with its last character."""
    depth = 0
    for place, character in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\"
        if character in "([" or (character == "{" and not escaped):
            depth += 1
        elif character in ")]" or (character == "}" and not escaped):
            depth -= 1
            if depth <= 0:
                return place == len(text) - 1 and depth == 0
    return False


def _markdown(text: str) -> str:
    """`**bold**` and `code` without their marks; in `x**2` they are a power."""
    if text[:2] in ("**", "__") or text[:1] == "`":
        return _BOLD.sub("", text).strip()
    if len(text) > 2 and text[0] == text[-1] == "*" and "*" not in text[1:-1]:
        return text[1:-1]
    return re.sub(r"^#+\s+", "", text)


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+", lambda found: "^{" + found[0].translate(_RAISED) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓ]+", lambda found: "_{" + found[0].translate(_LOWERED) + "}", text)
    text = re.sub(
        r"([√∛∜])\s*(?:\(([^()]*)\)|([0-9]+|[a-zA-Z]))?",
        lambda found: f"{_ROOTS[found[1]]}{{{found[2] or found[3]}}}" if found[2] or found[3] else _ROOTS[found[1]],
        text,
    )
    return "".join(_character(character) for character in text)


def _character(character: str) -> str:
    if character.isascii() or character in SIGNS:
        return character.translate(_SIGNS)
    kind = unicodedata.category(character)
    if kind == "Cf":  # zero width, direction, soft hyphen
        return ""
    if kind == "Zs":
        return " "
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind == "No":
        above, slash, below = unicodedata.normalize("NFKC", character).partition("⁄")
        return rf"\frac{{{above}}}{{{below}}}" if slash and below else character
    return character


def _dollars(text: str) -> str:
    r"""Without the $ of formulas. One that is left over is money, as \$ is."""
    text = text.replace("$$", " ")
    marks = [found.start() for found in re.finditer(r"(?<!\\)\$", text)]
    if len(marks) % 2 and (re.match(r"\$\s*[0-9.]", text[marks[0] :]) or re.search(r"[0-9]\s*\$$", text)):
        text = f"{text[: marks[0]]}\\{text[marks[0] :]}"
    return re.sub(r"(?<!\\)\$", " ", text)


def _unwrapped(text: str) -> str:
    r"""The content of \text and its like, with spaces around it; what is a function stays a command."""
    while found := _TEXTUAL.search(text):
        end = _closing(text, found.end())
        text = text[: found.start()] + _content(found[1], text[found.end() : end]) + text[end + 1 :]
    return text


def _closing(text: str, begin: int) -> int:
    """Where the brace closes that was opened before `begin`; the end of the text if it does not."""
    depth = 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)


def _content(command: str, content: str) -> str:
    name = content.strip()
    if command == "mathrm" or command.startswith("operatorname"):
        if name in _FUNCTIONS:
            return f"\\{name} "
        if len(name) == 1:
            return name
    return f" {content} "
