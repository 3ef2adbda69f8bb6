"""A run whose loss, gradients or weights are no finite numbers ends at that step, exits with 2 and publishes nothing.

Every process decides alike. A step is looked at before the optimizer takes it, so the weights are those of the step
before. The checkpoints that are there are sound, because none is written of weights that are not.
"""

from typing import Any

import torch

from posttrain.errors import InputError
from posttrain.outputs.checkpoints import Checkpoints, step_of, steps
from posttrain.training.weights import all_agree, lost_gradients, lost_weights, sees_numbers

LOSS, NORM = "loss", "gradient norm"


class Diverged(InputError):
    """Numbers that no training goes on from."""


def require_step(trainer: Any, loss: torch.Tensor, norm: Any) -> None:
    """Of an optimizer step that is about to be taken.

    Raises: Diverged if its loss or its gradients are no finite numbers
    """
    found = {name: whole(value) for name, value in ((LOSS, loss), (NORM, norm)) if value is not None}
    if all_agree(torch.stack([value.to(loss.device) for value in found.values()]).isfinite().all()):
        return
    bad = [f"{name} {float(value):g}" for name, value in found.items() if not bool(value.isfinite())]
    in_tensors = some(lost_gradients(trainer.model), "gradient")
    raise diverged(
        trainer, trainer.state.global_step + 1, "; ".join([", ".join(bad) or "a loss elsewhere", *in_tensors])
    )


def require_weights(trainer: Any) -> None:
    """Raises: Diverged if a weight is no finite number"""
    for seen in some(lost_weights(trainer.model), "weight"):
        raise diverged(trainer, trainer.state.global_step, seen)


def some(names: list[str], kind: str) -> list[str]:
    """What there is to say of tensors with values that are no finite numbers."""
    return [f"no finite numbers in {len(names)} {kind}{'s'[: len(names) > 1]}, first {names[0]}"] if names else []


def require_sound(trainer: Any, ids: list[int]) -> None:
    """Raises: Diverged if a weight is no finite number, or if what the model says after the tokens `ids` is none"""
    require_weights(trainer)
    if not sees_numbers(trainer.model, ids):
        got = "weights so large that no log-probability is a finite number"
        raise diverged(trainer, trainer.state.global_step, got)


def diverged(trainer: Any, step: int, got: str) -> Diverged:
    resume = trainer.resume
    stage = resume.checkpoints.stage if resume is not None else "training"
    start = getattr(trainer.model, "name_or_path", "")
    return Diverged(
        f"{stage}, step {step}" if step else f"{stage}, before the first step{start and f': {start}'}",
        got=got,
        wanted="finite numbers; training ends here, and nothing is published",
        do=f"{remedy(trainer, stage, step)}{'; ' + kept(resume.checkpoints) if resume is not None else ''}",
    )


def remedy(trainer: Any, stage: str, step: int) -> str:
    if step == 0:
        return "use a model whose weights are sound; the fault is in the one that training starts from"
    lower = f"lower {stage}.learning_rate ({trainer.args.learning_rate:g})"
    return f"{lower} or {stage}.max_grad_norm ({trainer.args.max_grad_norm:g}), or train in float32"


def kept(checkpoints: Checkpoints) -> str:
    """What there is to go on from, and who can."""
    found = steps(checkpoints.folder)
    if not found:
        return "no checkpoint was written yet"
    return (
        f"the checkpoint of step {step_of(found[-1])} is sound and stays ({found[-1]}); only a run of equal params "
        "goes on from it, and gets here again, so changed ones start at step 0"
    )


def whole(value: Any) -> torch.Tensor:
    """A number as a tensor of this process; under FSDP norms are sums that are still to be added up."""
    plain = value.full_tensor() if hasattr(value, "full_tensor") else torch.as_tensor(value)
    return plain.detach().float()
