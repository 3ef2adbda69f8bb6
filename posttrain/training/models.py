"""Models: loaded, checked, aligned with their tokenizers on where a turn ends, sampled from."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from posttrain.errors import InputError
from posttrain.generation.engine import Sampling, generate
from posttrain.outputs.weight_files import read_weights
from posttrain.params.schema import Model
from posttrain.prompts import Message, prompt_messages
from posttrain.templates import opened, render
from posttrain.training.pretrained import from_pretrained, require_folder
from posttrain.training.weights import lost_weights

LAYER = re.compile(r"(?:model\.|transformer\.)?(?:layers|h)\.(\d+)\.")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(name_or_path: str, model: Model, **kwargs: Any) -> PreTrainedModel:
    """The weights of a checkpoint in the dtype of params; with `device_map="meta"` a model without them.

    Raises: InputError if it is no model that writes text, or if weights are missing or have other shapes.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        require_folder(folder)
        read_weights(folder)
    require_decoder(from_pretrained(AutoConfig, name_or_path, model), name_or_path)
    kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with quietly():
        loaded, found = from_pretrained(AutoModelForCausalLM, name_or_path, model, dtype=DTYPES[model.dtype], **kwargs)
    require_whole(found, name_or_path)
    require_no_further_layers(found["unexpected_keys"], loaded.config, name_or_path)
    weights: PreTrainedModel = loaded
    return weights


def require_decoder(config: Any, where: str) -> None:
    """transformers makes a head for text on top of encoders too, whose tokens see those after them."""
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if encoder or getattr(config, "is_encoder_decoder", False):
        raise InputError(
            where,
            got=f"model_type {config.model_type}, architectures {config.architectures}",
            wanted="a decoder, a causal language model",
            do="name another model",
        )


def require_whole(found: dict[str, Any], where: str) -> None:
    """Raises: InputError if what transformers says of loading is that it drew some weights at random"""
    shapes = [f"{name} {list(there)} instead of {list(wanted)}" for name, there, wanted in found["mismatched_keys"]]
    missing = [f"{name} missing" for name in sorted(found["missing_keys"])]
    errors = [str(error) for error in [*found.get("error_msgs", []), *found.get("conversion_errors", {}).values()]]
    if problems := [*missing, *sorted(shapes), *errors]:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise InputError(
            where,
            got=" ".join(", ".join(problems[:4]).split())[:400] + more,
            wanted="all weights that config.json asks for, in its shapes; the rest would be random numbers",
            do="copy or download the model again, or mend its config.json",
        )


def require_no_further_layers(unexpected: Collection[str], config: Any, where: str) -> None:
    """Raises: InputError if the weights have layers beyond those of config.json, without which it is another model"""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    numbers = [int(found[1]) for name in unexpected if (found := LAYER.match(name))]
    if layers is not None and max(numbers, default=0) >= layers:
        raise InputError(
            where,
            got=f"weights of {max(numbers) + 1} layers, and num_hidden_layers {layers} in config.json",
            wanted="a config.json that says what the weights are",
            do="copy or download the model again, or mend its config.json",
        )


def require_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises: InputError if a token has no row of the embedding, and the first text with it would be an index error"""
    rows, highest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise InputError(
            where,
            got=f"a tokenizer with ids up to {highest}, and {rows} rows of the embedding",
            wanted="a row for each",
            do="call `model.resize_token_embeddings(len(tokenizer))` and save the model, or take these tokens away",
        )


def require_numbers(model: PreTrainedModel, where: str) -> None:
    """Raises: InputError if a weight is no finite number"""
    if lost := lost_weights(model):
        raise InputError(
            where,
            got=f"no finite numbers in {len(lost)} weights, first {lost[0]}",
            wanted="a model whose weights are sound",
            do="copy or download it again, or name another",
        )


@contextmanager
def quietly() -> Iterator[None]:
    """transformers logs a table of what it did not find, which `require_whole` says, under a bar of seconds."""
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def parameters(model: PreTrainedModel) -> int:
    """How many there are, also where ZeRO-3 has shared them out."""
    return sum(getattr(value, "ds_numel", value.numel()) for value in model.parameters())


def align_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """One end and one padding token for tokenizer, model and generation, and no sampling but what a caller asks for.

    A base's generation_config.json may hold more end tokens, penalties and cuts, which transformers would add to those.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = model.config
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id
    plain = getattr(model, "get_base_model", lambda: model)()  # PEFT's generates with the config of the model in it
    plain.generation_config = generation_config(tokenizer)
    model.config.use_cache = True  # the trainer switches it off in the config that would be published


def generation_config(tokenizer: PreTrainedTokenizerBase, **sampling: Any) -> GenerationConfig:
    """The tokens of a model and the sampling that is asked for, nothing else."""
    return GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **sampling,
    )


class Sampled(NamedTuple):
    text: str
    """What the prompt has opened, and what the model wrote."""
    finished: bool
    """It ended with the end-of-sequence token."""
    tokens: int
    """Length of what the model wrote, its end token included."""


def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[Message]], sampling: Sampling
) -> list[Sampled]:
    """One completion for each prompt, by seeds from torch's generator."""
    asked = [render(tokenizer, prompt) for prompt in prompts]
    ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    end, seeds = tokenizer.eos_token_id, torch.randint(2**63 - 1, (len(prompts), 1)).tolist()
    written = [one for (one,) in generate(model, ids, sampling, [end], seeds, rows=max(1, len(prompts)))]
    begun = [opened(text, prompt[-1]["content"]) for text, prompt in zip(asked, prompts, strict=True)]
    texts = [a + b for a, b in zip(begun, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True)]
    return [Sampled(text, one[-1] == end, len(one)) for text, one in zip(texts, written, strict=True)]


def complete_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    system: str | None,
    max_new_tokens: int,
) -> list[Sampled]:
    """The completion of each row's problem."""
    prompts = [prompt_messages(row["problem"], system) for row in rows]
    return sample(model, tokenizer, prompts, Sampling(max_new_tokens, temperature=0))
