"""Rewards of one's own: what the function does, what it gives back, how it is named."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from posttrain.params.file import read_yaml
from tests.surface.case import Case, Expected
from tests.surface.kinds.data import as_yaml
from tests.surface.kinds.reward_files import LINES

RETURNED: dict[str, Expected] = {
    "1": "accepted",
    "0.5": "accepted",
    "None": "accepted",
    "-1e300": "accepted",
    "float('nan')": "refused",
    "float('inf')": "refused",
    "'1'": "refused",
    "[1.0]": "refused",
    "{}": "refused",
    "object()": "refused",
    "1j": "refused",
    "10**5000": "refused",
    "lambda: 1": "refused",
    "'\\x1b[31m' * 10": "refused",
    "True": "either",
}
BODIES: dict[str, Expected] = {
    "raise ValueError('\\x1b[31m\\u202e')": "refused",
    "raise SystemExit(0)": "refused",
    "raise KeyboardInterrupt": "refused",
    "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()": "refused",
    "import os; os._exit(0)": "refused",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "refused",
    "while True: pass": "refused",
    "import time; time.sleep(1000)": "refused",
    "return f(completion)": "refused",
    "return [0] * 10**12": "refused",
    "print('\\x1b[31m' * 100); return 1.0": "either",
    "import sys; sys.stdout.close(); return 1.0": "either",
    "return type('Odd', (float,), {'__reduce__': lambda self: (exec, ('print(1)',))})(1)": "either",
}
FILES: dict[str, Expected] = {
    "": "refused",
    "def f(completion: return": "refused",
    "\x00": "refused",
    "import sys; sys.exit(0)": "refused",
    "while True: pass": "refused",
    "f = 1": "refused",
    "class f: pass": "either",
    "def f(): return 1": "refused",
    "def f(completion, group): return 1": "refused",
    "def f(*args): return 1": "refused",
    "def f(completion, needed): return 1": "refused",
    "raise ValueError('\\x1b[31m')": "refused",
    "(" * 5000: "refused",
}
HEAD = "def f(completion):\n    "


WRITTEN: dict[str, Expected] = (
    {f"{HEAD}return {value}\n": expected for value, expected in RETURNED.items()}
    | {f"{HEAD}{body}\n": expected for body, expected in BODIES.items()}
    | FILES
)


def cases(project: Path) -> st.SearchStrategy[Case]:
    return bodies(project, {"refused", "either"})


def valid(project: Path) -> st.SearchStrategy[Case]:
    return bodies(project, {"accepted"})


def bodies(project: Path, wanted: set[Expected]) -> st.SearchStrategy[Case]:
    params: dict[str, Any] = read_yaml(project / "params.yaml")
    params["rewards"]["mine"] = {"function": "rewards/mine.py:f", "weight": 1.0, "timeout_s": 1.0}
    others = {"rows.jsonl": LINES, "params.yaml": as_yaml(params)}
    return st.sampled_from([body for body, expected in WRITTEN.items() if expected in wanted]).map(
        lambda body: Case(
            ("rewards", "rows.jsonl"), repr(body)[:80], {"rewards/mine.py": body.encode(), **others}, WRITTEN[body]
        )
    )
