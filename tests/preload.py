"""Imported once by the server of tests/forks.py: what a training stage imports, and no thread."""

import stages.grpo
import stages.sft  # noqa: F401
