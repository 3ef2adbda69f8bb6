"""The models that evaluation compares, in the order of training: base, SFT, GRPO.

The base is a row only where params ask for it. It is evaluated in the form that SFT has it in: in the dtype of params,
with the end and padding token of the trained models.
"""

from pathlib import Path

from posttrain.evaluation.lighteval_process import MODELS
from posttrain.params.schema import Params

ROWS = ("base", "sft", "grpo")


def models(params: Params, folder: Path) -> dict[str, Path]:
    """The folder of each; that of the base is made in `folder`."""
    if not params.evaluate.base:
        return MODELS
    from posttrain.training.given import write_given  # torch, which an evaluation without a base does not need here

    return {"base": write_given(params, folder / "base"), **MODELS}
