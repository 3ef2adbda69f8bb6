"""Errors that say what to do, as Prefect shows them: the message is the state's, and no traceback buries it.

Run     @flow(...) above @told; importing this module folds the tracebacks in the logs of runs

An error of any other kind keeps its traceback: that is a bug.
"""

import functools
import logging
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Failed

from posttrain.errors import PosttrainError

P = ParamSpec("P")
R = TypeVar("R")

FURTHER_LINES = re.compile(r"\\n.*(?=['\"]\))")
RUNS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def told(function: Callable[P, R]) -> Callable[P, R | State]:
    """The function of a flow whose error becomes the state, and a line of its log."""

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R | State:
        try:
            return function(*arguments, **options)
        except PosttrainError as error:
            get_run_logger().error(str(error))  # in the state alone, the pages show its line ends as \\n
            return failed(error)

    return call


def failed(error: PosttrainError) -> State:
    """Who asks this state for its result gets the error raised."""
    return Failed(message=str(error), data=error)


def without_traceback(record: logging.LogRecord) -> bool:
    """Keep a record; of one of ours that a task ended with the message alone, and none twice: `told` has said it.

    Of a state whose message has lines, Prefect logs all of them in one, with \\n between: the first is enough.
    """
    if str(record.msg).startswith("Finished in state"):
        record.msg = FURTHER_LINES.sub(" …", str(record.msg))
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, PosttrainError):
        return True
    record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
    return record.name == "prefect.task_runs"


for name in RUNS:
    logging.getLogger(name).addFilter(without_traceback)
