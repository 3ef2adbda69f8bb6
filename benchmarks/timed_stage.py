"""`posttrain sft` or `posttrain grpo` in one process, its phases timed by benchmarks/phases.py.

Writes  phases.json beside what the stage writes
Run     python benchmarks/timed_stage.py STAGE
"""

# Nothing heavy: multiprocessing imports this file in each process that scores.
import importlib
import sys
from pathlib import Path
from typing import Any


def main(stage: str) -> int:
    from phases import Phases

    from posttrain.cli import main as posttrain

    module = importlib.import_module(f"stages.{stage}")

    class Timed(module.Trainer):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            Phases(self, Path("phases.json").absolute())

    module.Trainer = Timed  # type: ignore[attr-defined]
    return posttrain([stage])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
