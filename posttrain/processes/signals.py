"""SIGTERM and Ctrl-C: noted, or turned into an orderly end."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

AGAIN_S = 0.01


class NotedSignals:
    """While it is entered, `received` grows by the number of each SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        ignored = signal.SIG_IGN  # of a shell that started us in the background
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not ignored:
                    self.before[number] = signal.signal(number, self.note)
        except BaseException:  # one that came first
            self.restore()
            raise
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@contextmanager
def signals_later() -> Iterator[None]:
    """SIGTERM and Ctrl-C do what they do at the end of the block, not within it.

    Without effect outside the main thread, which alone they interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted = NotedSignals()
    try:
        with noted:
            yield
    finally:
        for number in noted.received:
            signal.raise_signal(number)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """SIGTERM raises SystemExit, so that unpublished folders and child processes are cleaned up; afterwards as before.

    Without effect outside the main thread, where Python sets no handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hook, before = sys.unraisablehook, signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.unraisablehook = lambda dropped: again(dropped, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


def again(dropped: "sys.UnraisableHookArgs", hook: Callable[["sys.UnraisableHookArgs"], object]) -> None:
    """Python drops what a handler raises within a destructor or a callback: the signal is sent once more, when that is
    over."""
    if dropped.exc_type is KeyboardInterrupt:
        number = signal.SIGINT
    elif dropped.exc_type is SystemExit and str(dropped.exc_value) == str(128 + signal.SIGTERM):
        number = signal.SIGTERM
    else:
        hook(dropped)
        return
    threading.Timer(AGAIN_S, os.kill, (os.getpid(), number)).start()
