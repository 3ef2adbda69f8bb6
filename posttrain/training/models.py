"""Models and tokenizers: loaded, checked, aligned on where a turn ends, sampled from."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.errors import InputError
from posttrain.outputs.identity import TOKENIZER_CONFIG, TOKENIZER_FILES
from posttrain.params.schema import Model
from posttrain.prompts import Message, prompt_messages

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_tokenizer(name_or_path: str, model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with a chat template whose assistant turn ends with the end-of-sequence token.

    Raises: InputError saying which of these the checkpoint lacks.
    """
    path = Path(name_or_path)
    if path.is_dir() and not any((path / name).is_file() for name in (*TOKENIZER_FILES, TOKENIZER_CONFIG)):
        raise InputError(
            str(path),
            got="a model folder without a tokenizer",
            wanted=f"one of {', '.join(TOKENIZER_FILES)} beside the weights",
            do="save the tokenizer into it: `AutoTokenizer.from_pretrained(...).save_pretrained(folder)`",
        )
    tokenizer = _from_pretrained(AutoTokenizer, name_or_path, model)
    require_chat_template(tokenizer, name_or_path)
    return tokenizer


def require_chat_template(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises: InputError if there is no chat template, or if the model could never learn where its turn ends."""
    if tokenizer.chat_template is None:
        raise InputError(
            where,
            got="a tokenizer without a chat template",
            wanted="a chat template, which renders a problem into the prompt of training and evaluation",
            do="use an instruct model, or set `chat_template` in its tokenizer_config.json",
        )
    turn = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "the reply"}]
    ending = str(tokenizer.apply_chat_template(turn, tokenize=False)).rpartition("the reply")[2]
    if tokenizer.eos_token is None or not ending.startswith(tokenizer.eos_token):
        raise InputError(
            where,
            got=f"a chat template that ends the assistant's turn with {ending!r}",
            wanted=f"the end-of-sequence token {tokenizer.eos_token!r} there; without it generation never stops",
            do="set `eos_token` in tokenizer_config.json to the token that ends a turn",
        )


def load_model(name_or_path: str, model: Model, **kwargs: Any) -> PreTrainedModel:
    """The weights of a checkpoint in the dtype of params."""
    return _from_pretrained(AutoModelForCausalLM, name_or_path, model, dtype=DTYPES[model.dtype], **kwargs)


def _from_pretrained(kind: Any, name_or_path: str, model: Model, **kwargs: Any) -> Any:
    path = Path(name_or_path)
    local = path.is_dir()
    if not local and (name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1):
        raise InputError(
            "params.yaml: model.name_or_path",
            got=f"{name_or_path}: no such folder",
            wanted="a model",
            do="mend the path",
        )
    if local and not (path / "config.json").is_file():
        raise InputError(
            str(path), got="a folder without config.json", wanted="a model in transformers' format", do="mend the path"
        )
    if not local and model.revision is None:
        raise InputError(
            "params.yaml: model.revision",
            got="null",
            wanted=f"the commit of {name_or_path} to use; a branch moves",
            do="copy it from the model's `Files and versions` page",
        )
    try:
        return kind.from_pretrained(
            name_or_path,
            revision=None if local else model.revision,
            trust_remote_code=model.trust_remote_code,
            **kwargs,
        )
    except (OSError, ValueError) as error:
        raise InputError(
            name_or_path,
            got=" ".join(str(error).split())[:300],
            wanted="a model folder or a Hub model that transformers can load",
            do="check model.name_or_path, model.revision and the network",
        ) from None


def parameters(model: PreTrainedModel) -> int:
    """How many there are, also where ZeRO-3 has shared them out."""
    return sum(getattr(value, "ds_numel", value.numel()) for value in model.parameters())


def align_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """One end and one padding token for tokenizer, model and generation, so that generation stops everywhere."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
    model.config.use_cache = True  # the trainer switches it off in the config that would be published


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[Message]],
    generation: GenerationConfig,
) -> list[tuple[str, bool]]:
    """One (completion, finished) for each prompt; finished means that it ended with the end-of-sequence token."""
    text = [str(tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True)) for p in prompts]
    batch = tokenizer(text, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    model.eval()
    ids = model.generate(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        generation_config=generation,
    )
    completions = ids[:, batch["input_ids"].shape[1] :]
    finished = (completions == tokenizer.eos_token_id).any(dim=1).tolist()
    return list(zip(tokenizer.batch_decode(completions, skip_special_tokens=True), finished, strict=True))


def complete_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    system: str | None,
    max_new_tokens: int,
) -> list[tuple[str, bool]]:
    """(completion, finished) of each row's problem."""
    generation = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return sample(model, tokenizer, [prompt_messages(row["problem"], system) for row in rows], generation)
