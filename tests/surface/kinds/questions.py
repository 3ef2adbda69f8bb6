"""What is typed or piped into `posttrain chat`."""

from pathlib import Path

from hypothesis import strategies as st

from tests.surface.case import Case

ODD = (
    b"",
    b"\xff\xfe\n",
    b"\0\n",
    b"\x1b[31m\n",
    b"a" * 100_000 + b"\n",
    b"\r\n\r\n",
    "a\u202eb\n".encode(),
    b"Solve: 2x + 1 = 7",
)


def cases(project: Path) -> st.SearchStrategy[Case]:
    return (st.sampled_from(ODD) | st.binary(max_size=60)).map(
        lambda text: Case(
            ("chat",),
            repr(text[:40]),
            expected="accepted" if text.isascii() and len(text) < 40 and text.isalnum() else "either",
            stdin=text,
        )
    )


def valid(project: Path) -> st.SearchStrategy[Case]:
    asked = (b"Solve: 2x + 1 = 7", b"\n\n", b"Solve: 3x = 6\nSolve: 2x = 4\n", "Löse: 2x = 4\n".encode(), b"2x\r\n")
    return st.sampled_from(asked).map(lambda text: Case(("chat",), repr(text), {}, "accepted", stdin=text))
