"""SIGTERM and Ctrl-C, noted instead of ending the process."""

import signal
from types import FrameType
from typing import Self


class NotedSignals:
    """While it is entered, `received` grows by the number of each SIGTERM and SIGINT."""

    def __enter__(self) -> Self:
        self.received: list[int] = []
        ignored = signal.SIG_IGN  # of a shell that started us in the background
        numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not ignored]
        self.before = {number: signal.signal(number, self.note) for number in numbers}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
