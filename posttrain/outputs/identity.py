"""What makes two model folders one model to a stage: tokenizer, chat template, system prompt, architecture.

Reads   the small files of a model folder, and the headers of its weights
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.outputs.facts import MADE_BY
from posttrain.outputs.json_files import read_object
from posttrain.outputs.manifest import sha256
from posttrain.outputs.weight_files import read_header
from posttrain.text_files import read_text

TOKENIZER_CONFIG = "tokenizer_config.json"


TOKENIZER_FILES = (
    *("added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt"),
)


TEMPLATE = "chat_template.jinja"


def identity(folder: Path, system: str | None) -> dict[str, Any]:
    """What the next stage relies on: tokenizer, chat template, system prompt and architecture of a model folder.

    Raises: InputError if one of its files cannot be read.
    """
    config = object_of(folder / "config.json")
    tokenizer_config = object_of(folder / TOKENIZER_CONFIG)
    template = tokenizer_config.pop("chat_template", None)
    if (folder / TEMPLATE).is_file():
        template = read_text(folder / TEMPLATE, again(folder / TEMPLATE))
    tokenizer = {name: sha256(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    tensors = {path.name: tensor_shapes(path) for path in sorted(folder.glob("*.safetensors"))}
    return {
        "tokenizer": digest({**tokenizer, TOKENIZER_CONFIG: tokenizer_config}),
        "chat_template": digest(template),
        "system": system,
        "architecture": {
            "names": config.get("architectures"),
            "sha256": digest({"config": config, "tensors": tensors}),
        },
    }


def digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def object_of(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no file."""
    return read_object(path, again(path)) if path.is_file() else {}


def tensor_shapes(path: Path) -> dict[str, Any]:
    """Name, type and shape of each tensor in a safetensors file, from its header.

    Raises: InputError
    """
    try:
        header = read_header(path)[0]
        tensors = {name: value for name, value in header.items() if isinstance(value, dict)}
    except (ValueError, struct.error, RecursionError, AttributeError) as error:
        got = f"a file that cannot be read: {' '.join(str(error).split())[:120]}"
        raise InputError(str(path), got=got, wanted="the file as a stage wrote it", do=again(path)) from None
    return {name: [value.get("dtype"), value.get("shape")] for name, value in tensors.items()}


def again(path: Path) -> str:
    return f"run `posttrain {MADE_BY.get(path.parent, 'STAGE')}` again"
