"""A trainer that goes on where a killed run stopped, and ends with the same bytes as one never killed.

transformers' Trainer saves weights, optimizer, schedule, its step and the random generators. What it and TRL leave out,
and a run would differ without, is `Resumable._state`: generations that are still in use, sums since the last log, the
rows of the curve; and the order of the prompts, which TRL draws from a generator that nothing saves.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.errors import InputError, RetryError
from posttrain.launch.layout import layout, require
from posttrain.outputs.checkpoints import Checkpoints
from posttrain.outputs.disk import readable
from posttrain.params.schema import Launch
from posttrain.processes.signals import NotedSignals

COST = 25
"""At least this many times the seconds that a checkpoint takes pass before the next, so they cost 4 % at most."""

STATE = "state-{rank}.pt"
TORCH_WRITES = ("PytorchStreamWriter", "inline_container")
"""One of them is in the message of a RuntimeError of torch.save's whose cause is the disk."""

COUNTERS = ("_step", "_total_train_tokens", "_current_train_step_time")
LOGS = ("prompt", "completion", "rewards", "advantages")


@runtime_checkable
class Stateful(Protocol):
    """A callback whose state is part of a checkpoint: plain data, lists and tensors."""

    def resume_state(self) -> dict[str, Any]: ...

    def load_resume_state(self, state: dict[str, Any]) -> None: ...


class Resumable:
    """Goes before a transformers Trainer among the bases of a class: `class Trainer(Resumable, GRPOTrainer)`."""

    checkpoints: Checkpoints

    def train_or_resume(self: Any, checkpoints: Checkpoints, launch: Launch) -> None:
        """`train`, from the last checkpoint of this fingerprint if there is one.

        SIGTERM and Ctrl-C end it after the current optimizer step, with a checkpoint; a second one ends it at once.

        Raises: RetryError after such a signal, InputError if what runs is not what `launch` asks for.
        """
        require(self.accelerator, layout(launch))
        self.checkpoints = checkpoints
        self.args.output_dir = self._agree(self.args.output_dir)  # every process adds its part to one checkpoint
        path = self._agree(str(checkpoints.latest() or "") if self.is_world_process_zero() else "")
        if self.is_world_process_zero():
            announce(checkpoints, Path(path) if path else None, self.args.max_steps)
        with StopSignals() as stop:
            self.add_callback(Saver(self, stop, launch.checkpoint_every_s, Path(path) if path else None))
            self.train(resume_from_checkpoint=path or None)
        if stop.first:  # after the last step, so no step saw it
            raise SystemExit(128 + stop.first)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None for a checkpoint; TRL would write one beside each."""

    def _run_epoch(self: Any, *args: Any, **kwargs: Any) -> None:
        """transformers asks for the last step only after one, so a run killed after its last would take another."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]
        else:
            self.control.should_training_stop = True

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        began = time.monotonic()
        step = self.state.global_step
        source = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{step}"
        with writing(self.checkpoints, source):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            with (source / STATE.format(rank=self.args.process_index)).open("wb") as file:
                torch.save(self._state(), file)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                (source / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody reads
                self.checkpoints.commit(source, step)
        self.accelerator.wait_for_everyone()
        self.checkpoints.written += 1
        self.checkpoints.seconds += time.monotonic() - began

    def _state(self: Any) -> dict[str, Any]:
        """What transformers' own files lack. Tensors and plain data only: it is read with `weights_only`."""
        state = {
            "loss": (self._tr_loss, self._total_loss_scalar, self._globalstep_last_logged),
            "counters": {name: getattr(self, name) for name in COUNTERS if hasattr(self, name)},
            "metrics": {mode: dict(values) for mode, values in self._metrics.items()},
            "logs": {name: plain(self._logs[name]) for name in LOGS} if hasattr(self, "_logs") else {},
            "generations": self._buffered_inputs if self._generations_are_in_use() else None,
            "callbacks": {type(c).__name__: c.resume_state() for c in self._stateful()},
            "reference": self.ref_model.state_dict() if self._reference_moves() else None,
        }
        return state

    def _load_state(self: Any, path: Path) -> None:
        """Put back what `_state` gave, and the samplers where they were."""
        file = path / STATE.format(rank=self.args.process_index)
        device = self.args.device if self.args.device.type != "cpu" else "cpu"  # torch cannot map to "cpu:0"
        state = torch.load(file, map_location=device, weights_only=True)
        self._tr_loss, self._total_loss_scalar, self._globalstep_last_logged = state["loss"]
        for name, value in state["counters"].items():
            setattr(self, name, value)
        for mode, values in state["metrics"].items():
            self._metrics[mode].update(values)
        for name, values in state["logs"].items():
            refill(self._logs[name], values)
        if state["generations"] is not None:
            self._buffered_inputs = state["generations"]
        if state["reference"] is not None:
            self.ref_model.load_state_dict(state["reference"])
        for callback in self._stateful():
            callback.load_resume_state(state["callbacks"][type(callback).__name__])

    def _issue_warnings_after_load(self: Any, load_result: Any) -> None:
        """transformers warns of tied weights, which it saved once; of others only our own checks can have failed."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        if (missing := set(load_result.missing_keys) - set(tied)) or load_result.unexpected_keys:
            raise RuntimeError(f"weights of another model: {sorted(missing)} {load_result.unexpected_keys}")

    def _generations_are_in_use(self: Any) -> bool:
        """Whether the next step still takes its sequences from the last generation batch."""
        window = getattr(self.args, "steps_per_generation", 1) * getattr(self, "num_iterations", 1)
        return hasattr(self, "_buffered_inputs") and self._step % window != 0

    def _reference_moves(self: Any) -> bool:
        return bool(getattr(self.args, "sync_ref_model", False))

    def _stateful(self: Any) -> list[Stateful]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, Stateful)]

    def _agree(self: Any, value: Any) -> Any:
        """The main process's value, in every process."""
        return broadcast_object_list([value])[0] if self.args.world_size > 1 else value


class Saver(TrainerCallback):
    """Says when to save; after a signal, ends training once it is saved."""

    def __init__(self, trainer: Any, stop: "StopSignals", every_s: float, resumed: Path | None) -> None:
        self.trainer, self.stop, self.every_s, self.resumed = trainer, stop, every_s, resumed
        self.stopping = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self.last, self.took = time.monotonic(), 0.0
        if self.resumed is not None:
            self.trainer._load_state(self.resumed)
            wind(kw["train_dataloader"], int(state.epoch or 0))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        due = time.monotonic() - self.last >= max(self.every_s, self.took * COST * bool(self.every_s))
        self.stopping, due = agree_on_most(self.stop.first, due, args)
        control.should_save = bool(due or self.stopping)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        checkpoints: Checkpoints = self.trainer.checkpoints
        self.took = checkpoints.seconds / checkpoints.written
        self.last = time.monotonic()
        if self.stopping:
            name = signal.Signals(self.stopping).name
            raise RetryError(
                f"{name}: stopped after step {state.global_step} of {state.max_steps}, which is saved"
                f" | to go on: posttrain {checkpoints.stage}, or dvc repro"
            )


def agree_on_most(received: int, due: bool, args: TrainingArguments) -> tuple[int, bool]:
    """In one process, what it was given; in several, the highest of each, so that all save after the same step."""
    if args.world_size == 1:
        return received, due
    both = torch.tensor([received, int(due and args.process_index == 0)], device=args.device)
    torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
    return int(both[0]), bool(both[1])


def wind(loader: Any, epochs: int) -> None:
    """Bring a fresh loader's sampler to the start of an epoch.

    accelerate's is told the epoch; its loader forgets to, in several processes and in the middle of an epoch. TRL's
    draws each epoch's order from a generator of its own, which has to have drawn those before.
    """
    batches = loader.batch_sampler
    while hasattr(batches, "batch_sampler"):  # one around another: for each process its share
        batches = batches.batch_sampler
    sampler = batches.sampler
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epochs)
    elif getattr(sampler, "generator", None) is not None:
        for _ in range(epochs):
            next(iter(sampler))


def announce(checkpoints: Checkpoints, path: Path | None, max_steps: int) -> None:
    if path is not None:
        print(f"{checkpoints.stage} | goes on after step {path.name.removeprefix('step-')} of {max_steps}, from {path}")
    elif others := checkpoints.others():
        print(
            f"{checkpoints.stage} | starts at step 0: {len(others)} checkpoint(s) belong to other params, inputs or"
            " code; `posttrain checkpoints` says which"
        )


@contextmanager
def writing(checkpoints: Checkpoints, source: Path) -> Iterator[None]:
    """Turn a disk that takes no more into a message. torch and safetensors hide the system's error number.

    Raises: InputError
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(name in str(error) for name in TORCH_WRITES):
            raise
        stat = os.statvfs(".")
        raise InputError(
            str(source),
            got=f"a checkpoint could not be written: {' '.join(str(error).split())[:200]};"
            f" {readable(stat.f_bavail * stat.f_frsize)} are free",
            wanted="room for a checkpoint, in a folder that can be written",
            do=f"make room, then run `posttrain {checkpoints.stage}` again: it goes on from the checkpoint before",
        ) from error


class StopSignals(NotedSignals):
    """The first is noted, the second ends the process."""

    @property
    def first(self) -> int:
        """The signal's number; 0 for none."""
        return self.received[0] if self.received else 0

    def note(self, number: int, frame: FrameType | None) -> None:
        super().note(number, frame)
        if len(self.received) > 1:
            raise SystemExit(128 + number)
        print(
            f"{signal.Signals(number).name}: saves after this step, then stops; a second one stops at once", flush=True
        )


def plain(values: Any) -> Any:
    """A deque as a list, a mapping of them as a dict of lists."""
    return {key: list(value) for key, value in values.items()} if isinstance(values, dict) else list(values)


def refill(target: Any, values: Any) -> None:
    """Undo `plain`."""
    if isinstance(values, dict):
        for key, items in values.items():
            target[key].extend(items)
    else:
        target.extend(values)
