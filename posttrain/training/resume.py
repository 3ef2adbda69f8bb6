"""A trainer that goes on where a killed run stopped, and ends with the same bytes as one never killed.

transformers' Trainer saves weights, optimizer, schedule, its step and the random generators. `state_of` gives what it
and TRL leave out: generations that are still in use, sums since the last log, the rows of the curve. The order of the
prompts, which TRL draws from a generator that nothing saves, is drawn again.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
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
from posttrain.params.launch import Launch
from posttrain.processes.signals import NotedSignals
from posttrain.training.divergence import require_sound

COST = 25
"""Seconds between two checkpoints, at least, in units of those that one takes: they cost 4 % at most."""

STATE = "state-{rank}.pt"
TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "Parent directory")
"""One of them is in the message of a RuntimeError of torch.save's whose cause is the disk."""


@runtime_checkable
class Stateful(Protocol):
    """A callback whose state is part of a checkpoint: plain data, lists and tensors."""

    resume_key: str
    """Its name in a checkpoint."""

    def resume_state(self) -> dict[str, Any]: ...

    def load_resume_state(self, state: dict[str, Any]) -> None: ...


class ResumableTrainer(Protocol):
    """What is needed of a trainer; posttrain/training/trl.py has two."""

    args: Any
    state: Any
    accelerator: Any
    callback_handler: Any
    model: Any

    def is_world_process_zero(self) -> bool: ...

    def add_callback(self, callback: TrainerCallback) -> None: ...

    def train(self, resume_from_checkpoint: str | None) -> Any: ...

    def some_ids(self) -> list[int]: ...

    def private_state(self) -> dict[str, Any]: ...

    def restore_private_state(self, state: dict[str, Any]) -> None: ...


class Resume:
    """How a trainer goes on from the checkpoints of a killed run, and writes its own."""

    def __init__(self, checkpoints: Checkpoints, launch: Launch) -> None:
        self.checkpoints, self.launch = checkpoints, launch

    def train(self, trainer: ResumableTrainer) -> None:
        """Train from the last checkpoint of this fingerprint if there is one.

        SIGTERM and Ctrl-C end it after the current optimizer step, with a checkpoint; a second one ends it at once.

        Raises: RetryError after such a signal, InputError if what runs is not what `launch` asks for.
        """
        require(trainer.accelerator, layout(self.launch))
        main = trainer.is_world_process_zero()
        trainer.args.output_dir = agreed(trainer.args.output_dir, trainer)  # every process adds to one checkpoint
        path = agreed(str(self.checkpoints.latest() or "") if main else "", trainer)
        if main:
            announce(self.checkpoints, Path(path) if path else None, trainer.args.max_steps)
        with StopSignals() as stop:
            trainer.add_callback(Saver(self, trainer, stop, Path(path) if path else None))
            trainer.train(resume_from_checkpoint=path or None)
        if stop.first:  # after the last step, so no step saw it
            raise SystemExit(128 + stop.first)

    def save(self, trainer: ResumableTrainer, source: Path, write: Callable[[], None]) -> None:
        """Make a checkpoint of what `write` puts into the folder `source` and of the state that it leaves out.

        Raises: Diverged if a weight is no finite number, InputError if the disk takes no more
        """
        began = time.monotonic()
        require_sound(trainer, trainer.some_ids())
        with writing(self.checkpoints, source):
            write()
            with (source / STATE.format(rank=trainer.args.process_index)).open("wb") as file:
                torch.save(state_of(trainer), file)
            trainer.accelerator.wait_for_everyone()
            if trainer.is_world_process_zero():
                (source / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody reads
                require_whole(trainer, source, self.checkpoints.stage)
                self.checkpoints.commit(source, trainer.state.global_step)
        trainer.accelerator.wait_for_everyone()
        self.checkpoints.written += 1
        self.checkpoints.seconds += time.monotonic() - began


def require_whole(trainer: ResumableTrainer, folder: Path, stage: str) -> None:
    """Whoever removes scratch may have begun with files of a checkpoint that is being written. transformers goes on
    without the optimizer, the schedule or the random generators, and ends with other bytes.

    Raises: InputError
    """
    if absent := [name for name in parts(trainer, folder) if not any(folder.glob(name))]:
        raise InputError(
            str(folder),
            got=f"{', '.join(absent)} removed while the checkpoint was written",
            wanted="a folder that nobody touches until the stage has ended",
            do=f"run `posttrain {stage}` again: it goes on from the checkpoint before",
        )


def parts(trainer: ResumableTrainer, folder: Path) -> list[str]:
    """Names, or patterns of names, of what a checkpoint has that a run goes on from."""
    ranks = range(trainer.args.world_size)
    alone = len(ranks) == 1
    own = [STATE.format(rank=rank) for rank in ranks]
    random = ["rng_state.pth"] if alone else [f"rng_state_{rank}.pth" for rank in ranks]
    if getattr(trainer, "is_deepspeed_enabled", False):
        weights = ["latest", "global_step*/*model_states.pt"]
        weights += [f"global_step*/*_rank_{rank}_*optim_states.pt" for rank in ranks]
    elif getattr(trainer, "is_fsdp_enabled", False):
        weights = ["pytorch_model_fsdp*", "optimizer*"]
    else:
        index = folder / "model.safetensors.index.json"
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
        weights = ["optimizer.pt", "scheduler.pt", *sorted(set(shards) or {"*model*.safetensors"})]
    return ["trainer_state.json", *own, *random, *weights]


def state_of(trainer: ResumableTrainer) -> dict[str, Any]:
    """What transformers' own files lack. Tensors and plain data only: it is read with `weights_only`."""
    return trainer.private_state() | {
        "callbacks": {key: callback.resume_state() for key, callback in stateful(trainer).items()},
        "reference": moving_reference(trainer) and moving_reference(trainer).state_dict(),
    }


def restore(trainer: ResumableTrainer, path: Path) -> None:
    """Put back what `state_of` gave."""
    file = path / STATE.format(rank=trainer.args.process_index)
    device = trainer.args.device if trainer.args.device.type != "cpu" else "cpu"  # torch cannot map to "cpu:0"
    state = torch.load(file, map_location=device, weights_only=True)
    trainer.restore_private_state(state)
    if state["reference"] is not None:
        moving_reference(trainer).load_state_dict(state["reference"])
    for key, callback in stateful(trainer).items():
        callback.load_resume_state(state["callbacks"][key])


def stateful(trainer: ResumableTrainer) -> dict[str, Stateful]:
    """The callbacks whose state is part of a checkpoint, by their keys.

    Raises: RuntimeError if two have the same key
    """
    found = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Stateful)]
    by_key = {callback.resume_key: callback for callback in found}
    if len(by_key) != len(found):
        raise RuntimeError(f"callbacks with one key: {[callback.resume_key for callback in found]}")
    return by_key


def moving_reference(trainer: ResumableTrainer) -> Any:
    """The reference model where it follows the policy, else None."""
    return getattr(trainer, "ref_model", None) if getattr(trainer.args, "sync_ref_model", False) else None


def agreed(value: Any, trainer: ResumableTrainer) -> Any:
    """The main process's value, in every process."""
    return broadcast_object_list([value])[0] if trainer.args.world_size > 1 else value


class Saver(TrainerCallback):
    """Says when to save; after a signal, ends training once it is saved."""

    def __init__(self, resume: Resume, trainer: ResumableTrainer, stop: "StopSignals", resumed: Path | None) -> None:
        self.checkpoints, self.trainer, self.stop, self.resumed = resume.checkpoints, trainer, stop, resumed
        self.every_s = resume.launch.checkpoint_every_s
        self.stopping = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self.last, self.took = time.monotonic(), 0.0
        if self.resumed is not None:
            restore(self.trainer, self.resumed)
            skip_epochs(kw["train_dataloader"], int(state.epoch or 0))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        due = time.monotonic() - self.last >= max(self.every_s, self.took * COST * bool(self.every_s))
        due |= state.global_step >= state.max_steps  # kept until it is published
        self.stopping, due = agree_on_most(self.stop.first, due, args)
        control.should_save = bool(due or self.stopping)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        checkpoints = self.checkpoints
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


def skip_epochs(loader: Any, epochs: int) -> None:
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
