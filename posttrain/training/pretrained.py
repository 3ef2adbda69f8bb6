"""What params name as a model: that it is there, what transformers makes of it, and its tokenizer.

Imports no torch for the tokenizer of a model from scratch, so that checks of the shipped recipe take a moment.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from posttrain.errors import InputError
from posttrain.outputs.identity import TOKENIZER_CONFIG, TOKENIZER_FILES
from posttrain.outputs.weight_files import read_json
from posttrain.params.schema import Model
from posttrain.templates import pin_date, require_turn
from posttrain.text_files import require_regular

QWEN2 = "Qwen2Tokenizer"


def load_tokenizer(name_or_path: str, model: Model, system: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with a chat template that can be used with this system prompt.

    Raises: InputError saying what the checkpoint lacks.
    """
    path = Path(name_or_path)
    if path.is_dir() and not any((path / name).is_file() for name in (*TOKENIZER_FILES, TOKENIZER_CONFIG)):
        raise InputError(
            str(path),
            got="a model folder without a tokenizer",
            wanted=f"one of {', '.join(TOKENIZER_FILES)} beside the weights",
            do="save the tokenizer into it: `AutoTokenizer.from_pretrained(...).save_pretrained(folder)`",
        )
    tokenizer = from_pretrained(kind_of_tokenizer(path, model), name_or_path, model)
    tokenizer.response_template = None  # TRL would take the thoughts out of completions by it
    pin_date(tokenizer)
    require_turn(tokenizer, name_or_path, system)
    return tokenizer


def kind_of_tokenizer(path: Path, model: Model) -> Any:
    """The class to load with. AutoTokenizer imports torch to find out that a model from scratch has Qwen2's."""
    config = path / TOKENIZER_CONFIG
    if model.name_or_path == "scratch" and config.is_file() and read_json(config).get("tokenizer_class") == QWEN2:
        return Qwen2Tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer


def require_source(name_or_path: str, model: Model) -> None:
    """What params name as a model is a folder with one, or a name on the Hub with a commit.

    Raises: InputError
    """
    path = Path(name_or_path)
    if path.is_dir():
        require_folder(path)
    elif name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise InputError(
            "params.yaml: model.name_or_path",
            got=f"{name_or_path}: no such folder",
            wanted="a model",
            do="mend the path",
        )
    elif model.revision is None:
        raise InputError(
            "params.yaml: model.revision",
            got=f"null, and {name_or_path} is no folder here, so a name on the Hub",
            wanted=f"the commit of {name_or_path} to use; a branch moves",
            do="copy it from the model's `Files and versions` page, or mend the path in model.name_or_path",
        )


def require_folder(path: Path) -> None:
    require_regular(path, "copy or download the model again")
    if not (path / "config.json").is_file():
        raise InputError(
            str(path), got="a folder without config.json", wanted="a model in transformers' format", do="mend the path"
        )
    read_json(path / "config.json")


def from_pretrained(kind: Any, name_or_path: str, model: Model, **kwargs: Any) -> Any:
    """Raises: InputError for whatever transformers and the libraries below it raise of files that they cannot use"""
    require_source(name_or_path, model)
    local = Path(name_or_path).is_dir()
    try:
        return kind.from_pretrained(
            name_or_path,
            revision=None if local else model.revision,
            trust_remote_code=model.trust_remote_code,
            **kwargs,
        )
    except MemoryError:
        raise
    except Exception as error:  # safetensors, tokenizers, json and torch share no narrower one
        if "out of memory" in str(error):
            raise
        kind_of = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise InputError(
            name_or_path,
            got=(kind_of + " ".join(str(error).split()))[:300],
            wanted="a model folder or a Hub model that transformers can load",
            do="look at the file that it names; check model.name_or_path, model.revision and the network",
        ) from None
