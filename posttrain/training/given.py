"""The checkpoint that `model.name_or_path` names, whole and as it was given, under the tokens of our own models."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.params.schema import Params
from posttrain.training.models import align_special_tokens, load_model, require_numbers, require_rows
from posttrain.training.pretrained import load_tokenizer
from posttrain.training.publish import write_model


def given_model(params: Params) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Its weights in the dtype of params, without adapters or quantization, which are of training; its tokenizer."""
    tokenizer = load_tokenizer(params.model.name_or_path, params.model, params.prompts.system)
    model = load_model(params.model.name_or_path, params.model)
    require_rows(model, tokenizer, params.model.name_or_path)
    require_numbers(model, params.model.name_or_path)
    align_special_tokens(model, tokenizer)
    return model, tokenizer


def write_given(params: Params, folder: Path) -> Path:
    """A folder with it, in the form that models are published in."""
    write_model(folder, *given_model(params))
    return folder
