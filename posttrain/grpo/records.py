"""What a GRPO run leaves for people to look at beside its curve: completions of chosen steps, where its time went."""

import json
import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.outputs.manifest import beside, publish_files
from posttrain.paths import GRPO_RESULTS, RUN_LOG
from posttrain.training.trl import GenerationBatch

COMPLETIONS = "completions.parquet"
MIB = 2**20


class KeptCompletions(TrainerCallback):
    """The completions that every so many steps trained on, with their rewards and advantages.

    A table of plain columns, so equal runs give equal bytes; without rows if params keep none.
    """

    resume_key = "kept_completions"

    def __init__(self, every_steps: int, rewards: list[str], last_batch: Callable[[], GenerationBatch]) -> None:
        self.every_steps, self.rewards, self.last_batch = every_steps, rewards, last_batch
        self.rows: list[dict[str, Any]] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self.every_steps or state.global_step % self.every_steps:
            return
        batch = self.last_batch()
        scores = zip(*(batch.rewards[name] for name in self.rewards), strict=True)
        for prompt, completion, values, advantage in zip(
            batch.prompts, batch.completions, scores, batch.advantages, strict=True
        ):
            found = {
                name: None if math.isnan(value) else value for name, value in zip(self.rewards, values, strict=True)
            }
            row = {"step": state.global_step, "prompt": json.dumps(prompt, ensure_ascii=False)}
            self.rows.append({**row, "completion": completion[-1]["content"], **found, "advantage": advantage})

    def table(self) -> pa.Table:
        """`prompt` is the conversation as JSON; a reward is null where it had no verdict."""
        text = {"prompt": pa.string(), "completion": pa.string()}
        numbers = {name: pa.float64() for name in (*self.rewards, "advantage")}
        return pa.Table.from_pylist(self.rows, schema=pa.schema({"step": pa.int64(), **text, **numbers}))

    def publish(self) -> None:
        """results/grpo/completions.parquet."""
        with beside(GRPO_RESULTS) as out:
            pq.write_table(self.table(), out / COMPLETIONS, compression="zstd")
            publish_files(out, GRPO_RESULTS)

    def resume_state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


class Stopwatch:
    """Seconds spent on parts of a step, by name."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def reset(self) -> None:
        self.seconds.clear()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began  # type: ignore[assignment]


class StepClock(TrainerCallback):
    """Seconds of each step, tokens a second and memory, in a table that nothing tracks: no two runs have the same."""

    COLUMNS = ("step", "seconds", "generate_s", "reward_s", "update_s", "tokens_per_s", "peak_memory_mib")

    def __init__(self, stage: str, stopwatch: Stopwatch) -> None:
        self.path, self.stopwatch = RUN_LOG / f"{stage}-steps.tsv", stopwatch

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and not (state.global_step and self.path.is_file()):  # a resumed run adds to it
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\t".join(self.COLUMNS) + "\n", encoding="utf-8")

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began, self.tokens = time.perf_counter(), state.num_input_tokens_seen
        self.stopwatch.reset()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        seconds = time.perf_counter() - self.began
        tokens = state.num_input_tokens_seen - self.tokens  # of the batch that it trained on
        spent = self.stopwatch.seconds
        parts = (spent["generate"], spent["reward"], seconds - spent.total())
        row = [*(f"{value:.4f}" for value in (seconds, *parts)), f"{tokens / seconds:.1f}", f"{peak_memory_mib():.0f}"]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\t".join([str(state.global_step), *row]) + "\n")


def peak_memory_mib() -> float:
    """Peak since the process began, of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak / (MIB if sys.platform == "darwin" else 1024)
