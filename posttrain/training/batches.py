"""From the sequences of an optimizer step to the forward passes of each process."""

from dataclasses import dataclass

from posttrain.errors import InputError


@dataclass(frozen=True)
class BatchPlan:
    """`sequences` per optimizer step as forward passes of `per_device` sequences, `accumulation` times in each
    process."""

    per_device: int
    accumulation: int

    def trainer_kwargs(self) -> dict[str, int]:
        return {
            "per_device_train_batch_size": self.per_device,
            "gradient_accumulation_steps": self.accumulation,
        }


def batch_plan(sequences: int, micro_batch_size: int, processes: int) -> BatchPlan:
    """The largest equal split of a step's sequences that keeps a forward pass within `micro_batch_size`.

    The science fixes `sequences`; memory and processes decide only how many passes they take.

    Raises: InputError if the processes cannot have equal shares.
    """
    own, rest = divmod(sequences, processes)
    if rest:
        raise InputError(
            "launch.processes",
            got=f"{processes}, for {sequences} sequences a step",
            wanted="a number that divides them; it may not change the science",
            do=f"use {max(n for n in range(1, processes) if sequences % n == 0)} processes",
        )
    per_device = max(size for size in range(1, micro_batch_size + 1) if own % size == 0)
    return BatchPlan(per_device, own // per_device)
