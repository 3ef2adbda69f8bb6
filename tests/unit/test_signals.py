"""Signals that come when Python drops what their handlers raise."""

import subprocess
import sys

import pytest

from posttrain import cli

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


@pytest.mark.parametrize(
    ("raised", "code"), [(SystemExit(143), 143), (KeyboardInterrupt(), 130), (SystemExit(2), None)]
)
def test_an_error_that_followed_a_signal_is_its_end(
    raised: BaseException, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a lock of `threading`, "release unlocked lock" is what is left of it."""

    def run(_: object) -> None:
        try:
            try:
                raise raised
            finally:
                raise RuntimeError("release unlocked lock")
        finally:
            raise ValueError("and another")

    monkeypatch.setattr(cli, "run_lineage", run)
    if code is not None:
        assert cli.main(["lineage"]) == code
        return
    with pytest.raises(ValueError, match="and another"):
        cli.main(["lineage"])
