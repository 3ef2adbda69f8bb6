"""Signals that come when Python drops what their handlers raise."""

import subprocess
import sys

import pytest

WITHIN = {
    "a hook of a fork": """
        from posttrain.processes.bounded import bounded
        os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), number))
        bounded(lambda: 1, 5)
    """,
    "a destructor": """
        class Dropped:
            def __del__(self):
                os.kill(os.getpid(), number)
                for _ in range(3):
                    pass
        Dropped()
    """,
    "a callback of a weak reference": """
        import weakref
        class Named: pass
        named = Named()
        kept = weakref.ref(named, lambda _: os.kill(os.getpid(), number))
        del named
    """,
}


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_heard_within(within: str, name: str, code: int) -> None:
    program = f"""
import os, signal, time
from posttrain.processes.signals import sigterm_exits
number = signal.{name}
def run():
    with sigterm_exits():
{WITHIN[within]}
        for _ in range(1000):
            time.sleep(0.01)
    print("went on")
try:
    run()
except KeyboardInterrupt:
    os._exit(130)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")
