"""From a trained model and its numbers to models/<stage>/ and results/<stage>/.

Writes  models/<stage>/, results/<stage>/{metrics.json,curve.tsv,samples.jsonl}
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.errors import InputError
from posttrain.outputs.checkpoints import Checkpoints
from posttrain.outputs.disk import free_at
from posttrain.outputs.facts import reproducible
from posttrain.outputs.identity import identity
from posttrain.outputs.manifest import beside, publish, publish_files, write_json, write_jsonl
from posttrain.training.card import CARD
from posttrain.training.curve import Curve
from posttrain.training.models import generation_config


@contextmanager
def kept(checkpoints: Checkpoints) -> Iterator[None]:
    """Publishing that costs no training when it fails: the message says where the trained model is.

    Raises: InputError
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        saved, stage = checkpoints.latest(), checkpoints.stage
        told = error if isinstance(error, OSError) else OSError()
        raise InputError(
            str(told.filename or f"models/{stage}"),
            got=f"not published: {' '.join(str(error).split())[:200]}; {free_at(told)}",
            wanted="a folder beside the output that can be written, with room",
            do=f"make room or mend the rights, then run `posttrain {stage}` again"
            + (f": the trained model is in {saved}, and is published without training" if saved else ""),
        ) from error


def publish_results(target: Path, metrics: Any, curve: Curve, samples: list[dict[str, Any]], **documents: Any) -> None:
    """results/<stage>/: metrics.json, curve.tsv, samples.jsonl, and every document as <name>.json."""
    with beside(target) as out:
        for name, content in {"metrics": metrics, **documents}.items():
            write_json(out / f"{name}.json", content)
        curve.write(out / "curve.tsv")
        write_jsonl(out / "samples.jsonl", samples)
        publish_files(out, target)


def publish_model(
    target: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: dict[str, Any],
    text: str,
) -> None:
    """models/<stage>/: a plain transformers checkpoint in safetensors, with tokenizer, template, card and manifest."""
    model.generation_config = generation_config(tokenizer, **sampling(facts["params"]))
    with beside(target) as out:
        write_model(out, model, tokenizer)
        (out / CARD).write_text(text, encoding="utf-8")
        made = {"model": identity(out, facts["params"]["prompts"]["system"]), "bytes": reproducible(model.device.type)}
        publish(out, target, facts | made)


def write_model(out: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A folder in transformers' format, the same for the same model wherever it was loaded from."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
    # Where the tokenizer was loaded from is no property of the model, and would make equal outs differ.
    with suppress(KeyError):
        del config["name_or_path"]
    write_json(out / "tokenizer_config.json", config)


def sampling(params: dict[str, Any]) -> dict[str, Any]:
    """How a published model samples where nothing else is asked for: as GRPO rolled it out, or as SFT fitted it.

    That of `evaluate` is no part of it: the stages that train do not depend on that section.
    """
    grpo = params.get("grpo", {})
    further = {name: grpo["trl"][name] for name in ("min_p", "repetition_penalty") if name in grpo.get("trl", {})}
    return {
        "do_sample": True,
        "temperature": grpo.get("temperature", 1.0),
        "top_p": grpo.get("top_p", 1.0),
        "top_k": grpo.get("trl", {}).get("top_k", 0),
        **further,
    }
