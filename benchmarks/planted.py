"""Problems by the hundred thousand, and copies of them of which it is known what became of them.

Three of four are word problems and equations from shared sentences, so that other problems of the same template are
everywhere; their numbers differ. The fourth has no number. `COPIES` are the same problem in other words, `VARIANTS`
another problem in nearly the same ones.
"""

import random
import re
from collections.abc import Callable


def words(text: str) -> list[str]:
    return text.split()


def phrases(text: str) -> list[str]:
    return text.split("|")


NAMES = words(
    "Ada Ben Cora Dev Elif Finn Gita Hugo Iris Jalen Kofi Lena Mona Nils Omar Priya Quinn Rosa Sam Tara Umar "
    "Vera Wim Xenia Yara Zane Amara Boris Chloe Dario Esme Farid Greta Hana Igor Jonas"
)
THINGS = words(
    "apples pencils marbles stamps tickets cookies shells beads postcards bottles tiles bricks candles ribbons "
    "coins badges buttons crates lamps notebooks oranges peaches plates ropes screws towels umbrellas vases "
    "wheels zippers"
)
PLACES = words(
    "market school library harbour station museum bakery garden factory theatre stadium farm office clinic workshop"
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
OPENINGS = (
    "{a} has {i} {x} and {b} has {j} times as many.",
    "At the {p}, {a} buys {i} boxes with {j} {x} in each of them.",
    "A {p} sells {x} for ${i} apiece and {y} for ${j} apiece.",
    "Every {d}, {a} carries {i} {x} from the {p} to the {q}.",
    "There were {i} {x} in the {p} before {a} came and took {j} of them.",
    "{a}, {b} and {c} share {i} {x} in the ratio {j} to {k} to {l}.",
)
MIDDLES = (
    "On {d} {b} gives away {k} of the {x} at the {q}.",
    "{c} then finds {k} more {y} behind the {q} and keeps half of them.",
    "The price of the {y} rises by {k} percent before {d}.",
    "It takes {k} minutes to pack the {y} and {l} minutes to bring them to the {q}.",
    "After {k} days {l} of the {x} are broken, and {b} replaces every one of them.",
    "Of these {x}, {k} are red and the others are blue or green.",
    "{b} pays with a note of ${k} and gets back the change in coins of {l} cents.",
    "By {d} evening, the {q} has received {k} new {y} from {c}.",
)
QUESTIONS = (
    "How many {x} does {a} have in the end?",
    "How much money has {b} spent altogether?",
    "What is the largest number of {y} that can be left at the {q}?",
    "How many more {x} than {y} are there on {d}?",
    "What fraction of all {x} does {c} keep?",
)
FORMULAS = (
    "Let $f(x) = {i}x^2 - {j}x + {k}$ be a function on the real numbers. Find the largest value of $f(x)$ on the "
    "interval $[{l}, {m}]$, and say where it is reached.",
    "In triangle $ABC$, the side $AB$ is ${i}$, the side $BC$ is ${j}$ and the angle between them is ${k}$ degrees. "
    "The point $D$ divides $AC$ in the ratio $\\frac{{{l}}}{{{m}}}$. Find the length of $BD$.",
    "Find the number of integers $n$ with $1 \\le n \\le {i}$ for which $\\left( n^2 + {j}n + {k} \\right)$ is "
    "divisible by ${l}$ but not by ${m}$.",
    "The sequence $a_1, a_2, \\dots$ has $a_1 = {i}$ and $a_{{n+1}} = {j} \\cdot a_n - {k}$ for every $n$. Find the "
    "remainder of $a_{{{l}}}$ when it is divided by ${m}$.",
    "Solve the system $$ {i}x + {j}y = {k}, \\quad {l}x - {m}y = {n} $$ in the real numbers and give the sum $x + y$.",
    "What is the coefficient of $x^{i}$ in the expansion of $\\left( {j}x + {k} \\right)^{{{l}}}$, and which other "
    "coefficient is the same?",
)
STEMS = words("ba ce di fo gu ka le mi no pu ra se ti vo zu bra cle dri flo gru")
LINKS = phrases("such that|where every|with a|over the|for which no|whose|and its|under the|so that each|without any")

Copy = Callable[[str, random.Random], str]


def problem(rng: random.Random) -> str:
    """A problem of 25 to 100 words."""
    kind = rng.random()
    if kind < 0.25:
        return _abstract(rng)
    numbers = {name: rng.randint(2, 2000) for name in "ijklmn"}
    if kind < 0.5:
        return rng.choice(FORMULAS).format(**numbers)
    a, b, c = rng.sample(NAMES, 3)
    x, y = rng.sample(THINGS, 2)
    p, q = rng.sample(PLACES, 2)
    sentences = [rng.choice(OPENINGS), *rng.sample(MIDDLES, rng.randint(2, 4)), rng.choice(QUESTIONS)]
    filled = []
    for sentence in sentences:
        numbers = {name: rng.randint(2, 200) for name in "ijkl"}
        filled.append(sentence.format(a=a, b=b, c=c, x=x, y=y, p=p, q=q, d=rng.choice(DAYS), **numbers))
    return " ".join(filled)


def _abstract(rng: random.Random) -> str:
    """No number in it: words of two or three syllables that are in few other problems."""
    parts = ["Let", _word(rng).capitalize(), "be a", _word(rng)]
    for _ in range(rng.randint(4, 9)):
        parts += [rng.choice(LINKS), _word(rng), _word(rng)]
    return " ".join([*parts[:-1], "is", f"{parts[-1]}. Determine all", _word(rng), "that are", f"{_word(rng)}."])


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(STEMS, k=rng.randint(2, 3)))


def equal(text: str, rng: random.Random) -> str:
    return text


def case_and_space(text: str, rng: random.Random) -> str:
    upper = text if "\\" in text else text.upper()
    return rng.choice([upper, text.lower(), text.replace(" ", "  "), text.replace(". ", ".\n")])


def punctuation(text: str, rng: random.Random) -> str:
    text = text.replace(", ", " ") if rng.random() < 0.5 else text.replace(". ", "; ")
    return text.rstrip(".?") + rng.choice(["", "!", " .", "??"])


def marks(text: str, rng: random.Random) -> str:
    """Other LaTeX for the same, or dollars around numbers."""
    if "$" not in text or "\\" not in text:
        return (
            re.sub(r"\b(\d+)\b", r"\\(\1\\)", text.replace("$", "")) if re.search(r"\d", text) else f"\\text{{{text}}}"
        )
    text = re.sub(r"\$\$?([^$]*)\$?\$", r"\\(\1\\)", text)
    swaps = {
        "\\left(": "(",
        "\\right)": ")",
        "\\frac": "\\dfrac",
        "\\cdot": "\\times",
        "\\le ": "\\leq ",
        " + ": " \\,+\\, ",
    }
    for old, new in swaps.items():
        text = text.replace(old, new)
    return text


def renamed(text: str, rng: random.Random) -> str:
    """Another name for each name; for points and such, other letters."""
    words = sorted(set(re.findall(r"\b[A-Z][a-z]+\b", text)) & set(NAMES))
    if words:
        others = dict(zip(words, rng.sample([name for name in NAMES if name not in words], len(words)), strict=True))
        return re.sub(r"\b[A-Z][a-z]+\b", lambda found: others.get(found[0], found[0]), text)
    letters = dict(zip("ABCD", rng.sample("PQRSTUVW", 4), strict=True))
    if re.search(r"\$[A-D]{2,3}\$", text):
        return re.sub(r"\b[A-D]{1,3}\b", lambda found: "".join(letters[letter] for letter in found[0]), text)
    return re.sub(r"^Let \w+", f"Let {_word(rng).capitalize()}", text)


def prefixed(text: str, rng: random.Random) -> str:
    before = ["Solve the following problem. ", "Problem 12. ", "7. ", "Question: ", "Please solve this math problem: "]
    after = ["", "", " Please reason step by step, and put your final answer within \\boxed{}."]
    return rng.choice(before) + text + rng.choice(after)


def words_replaced(text: str, rng: random.Random, share: float = 0.08) -> str:
    """One word in twelve is another; numbers, formulas and names stay."""
    return " ".join(
        _word(rng) if part.isalpha() and part.islower() and rng.random() < share else part for part in text.split(" ")
    )


SYNONYMS = {
    **{"has": "owns", "buys": "purchases", "gives away": "hands out", "Find": "Compute", "What is": "Determine"},
    **{"How many": "What number of", "altogether": "in total", "in the end": "at last", "carries": "brings"},
    **{"sells": "offers", "Let": "Suppose that", "Determine all": "Find every", "largest": "greatest", "each": "every"},
    **{"finds": "discovers", "share": "divide", "There were": "There used to be", "rises": "goes up", "takes": "needs"},
    **{
        "received": "got",
        "divisible by": "a multiple of",
        "remainder of": "rest of",
        "before": "until",
        "then": "next",
    },
}


def paraphrased(text: str, rng: random.Random) -> str:
    """Every phrase of the table is its synonym."""
    return re.sub(
        rf"\b(?:{'|'.join(sorted(SYNONYMS, key=len, reverse=True))})\b", lambda found: SYNONYMS[found[0]], text
    )


def embedded(text: str, rng: random.Random) -> str:
    story = (
        "This one was on the sheet of the spring contest of {}, and few of the {} who came had it right.\n\n{}\n\n{}"
    )
    return story.format(
        rng.randint(1980, 2020),
        rng.choice(THINGS),
        text,
        f"Write down every step, as in the {rng.choice(THINGS)} above.",
    )


def other_numbers(text: str, rng: random.Random) -> str:
    """Every number one higher: another problem."""
    return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), text)


def other_question(text: str, rng: random.Random) -> str:
    """The smallest for the largest and the like: another problem, with another answer."""
    for old, new in (
        ("largest", "smallest"),
        ("How many more", "How many fewer"),
        ("sum", "product"),
        ("end", "beginning"),
    ):
        if old in text:
            return text.replace(old, new)
    return text.rstrip(".?") + ", if all of this is done twice?"


COPIES: dict[str, Copy] = {
    **{"equal": equal, "case and space": case_and_space, "punctuation": punctuation, "LaTeX marks": marks},
    **{"names": renamed, "instructions around": prefixed, "8 % of words": words_replaced, "paraphrase": paraphrased},
}
INSIDE: dict[str, Copy] = {**COPIES, "inside a longer text": embedded}
VARIANTS: dict[str, Copy] = {"numbers + 1": other_numbers, "another question": other_question}
