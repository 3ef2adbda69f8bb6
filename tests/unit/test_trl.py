"""The seam to TRL and transformers: each private name that posttrain relies on is there, and where it is used."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import transformers
import trl
import trl.trainer.utils

from posttrain.training.trl import PRIVATE

ROOT = Path(__file__).parents[2]
NAMES = [(kind, name) for kind, names in PRIVATE.items() for name in names]

# What an override takes and hands on, as TRL 1.16 and transformers 5.24 call it.
PARAMETERS = {
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "_get_train_sampler": ["self", "train_dataset"],
    "_issue_warnings_after_load": ["self", "load_result"],
    "_generate": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_use_triton": ["device"],
}


def source_of(kind: type) -> str:
    """The code of a trainer and of what it inherits from TRL and transformers."""
    ours = [one for one in kind.__mro__ if one.__module__.partition(".")[0] in ("trl", "transformers")]
    return "\n".join(inspect.getsource(one) for one in ours)


@pytest.mark.parametrize(("kind", "name"), NAMES, ids=[f"{kind.__name__}.{name}" for kind, name in NAMES])
def test_the_private_name_is_there(kind: type, name: str) -> None:
    if callable(getattr(kind, name, None)):
        parameters = list(inspect.signature(getattr(kind, name)).parameters)
        assert parameters == PARAMETERS.get(name, parameters), f"{kind.__name__}.{name} takes other arguments"
    elif not hasattr(kind, name):
        assert re.search(rf"self\.{name}\b( *:[^=]*)? *=[^=]", source_of(kind)), f"{kind.__name__} sets no {name}"


OTHERS = ["_run_epoch", "_generate_single_turn", "_get_per_token_logps_and_entropies"]
CALLED = [name for name in PARAMETERS if name not in ("_get_output_dir", "_use_triton")] + OTHERS


@pytest.mark.parametrize("name", CALLED)
def test_what_is_overridden_is_still_called_by_the_library(name: str) -> None:
    """An override that nobody calls would switch a promise off without a word."""
    code = source_of(trl.GRPOTrainer) + source_of(transformers.Trainer)
    assert re.search(rf"self\.{name}\b", code), f"nobody calls {name}"


def test_the_fused_head_asks_for_what_is_set_around_it() -> None:
    code = inspect.getsource(trl.trainer.utils.add_fused_lm_head)
    assert "compact = _use_triton(" in code
    assert "_CHUNKED_LOGPROB_CHUNK_SIZE," in code


def test_no_other_file_uses_a_private_name() -> None:
    private = {name for _, name in NAMES}
    for file in sorted([*(ROOT / "posttrain").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]):
        used = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
        assert file.name == "trl.py" or not used & private, file


def test_every_name_that_the_seam_uses_is_listed() -> None:
    tree = ast.parse((ROOT / "posttrain/training/trl.py").read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own = {"_replayed"}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    counters = {"_step", "_total_train_tokens", "_current_train_step_time"}
    assert private | counters == {name for _, name in NAMES} | own
