"""The model that SFT starts from: a checkpoint, or one made here from random weights."""

from collections.abc import Iterable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.params.schema import Params
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.lora import check_targets, loading
from posttrain.training.models import align_special_tokens, load_model, require_rows
from posttrain.training.pretrained import load_tokenizer

FROM_SCRATCH = "scratch"


def base_model(params: Params, rows: Iterable[dict[str, str]]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that SFT starts from, and its tokenizer; both made here if params say `scratch`."""
    if params.model.name_or_path == FROM_SCRATCH:
        texts = (row["problem"] + "\n" + row["completion"] for row in rows)
        tokenizer = train_tokenizer(texts, params.model.scratch.vocab_size)
        model = random_model(params.model.scratch, tokenizer)
    else:
        tokenizer = load_tokenizer(params.model.name_or_path, params.model, params.prompts.system)
        model = load_model(params.model.name_or_path, params.model, **loading(params))
        require_rows(model, tokenizer, params.model.name_or_path)
    check_targets(model, params)
    align_special_tokens(model, tokenizer)
    return model, tokenizer
