"""The model card of a checkpoint: README.md in the Hub's format, with what is known when the model is written.

Training metrics only: the evaluation comes later, and a card that it changed would be another model. No date, host or
path that the params do not hold. Text of users and models is escaped.
"""

import html
import io
import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from posttrain.errors import InputError
from posttrain.params import plain_yaml
from posttrain.prompts import prompt_messages
from posttrain.text_files import read_text
from posttrain.training.standstill import standstill

CARD = "README.md"
METHODS = {
    "sft": "supervised fine-tuning on reasoning traces",
    "grpo": "Group Relative Policy Optimization against verifiable rewards (arXiv:2402.03300)",
}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def card(record: dict[str, Any], metrics: dict[str, Any], problem: str, completion: str, parent: Path | None) -> str:
    """The card of a stage's model: front matter, metrics, one greedy completion, params, and what it was made from.

    `parent` is the local folder of the model that training started from, whose card may name a licence.
    """
    stage, params = record["stage"], record["params"]
    origin = params["model"]["name_or_path"]
    rows = [f"| {escape(name)} | {value:.6g} |" for name, value in sorted(metrics.items()) if is_number(value)]
    sources = {**record["parents"], **record["inputs"]}
    if "adopted" in record:
        made, measured = f"Not trained here: posttrain took {start(origin)} as it is.", ""
    else:
        made = f"Trained by {METHODS[stage]}, with posttrain; started from {start(origin)}."
        measured = "Measured while it trained. "
    return "\n".join(
        [
            "---",
            front_matter(stage, params, parent) + "---",
            "",
            f"# {stage}",
            "",
            made,
            "",
            *usage(Path("models") / stage, params["prompts"]["system"]),
            "## Training metrics" if measured else "## Metrics",
            "",
            "| metric | value |",
            "|---|---|",
            *rows,
            "",
            *still(metrics),
            f"{measured}What it does on held-out problems is in the evaluation of the project.",
            "",
            "## A greedy completion of a training problem",
            "",
            f"<pre>{html.escape(problem)}</pre>",
            "",
            f"<pre>{html.escape(completion)}</pre>",
            "",
            "## Params",
            "",
            f"<pre>{html.escape(dump(params))}</pre>",
            "",
            "## Made from",
            "",
            "| | sha256 |",
            "|---|---|",
            *(f"| {escape(name)} | {value} |" for name, value in sorted(sources.items())),
            "",
            f"The hash of {escape('data/prepared')} or of a model is that of its `manifest.json`. This folder's own",
            "`manifest.json` has the code and the versions; `posttrain verify` checks it all.",
            "",
        ]
    )


def still(metrics: dict[str, Any]) -> list[str]:
    """A paragraph about a run that moved few weights or none."""
    line = standstill(metrics, "the one that it started from")
    return [] if line is None else [f"**{line}.**", ""]


def usage(folder: Path, system: str | None) -> list[str]:
    """Python that asks the model a question, in the form in which it was asked in training."""
    return [
        "## How to ask it",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{folder}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
        "",
        f"messages = {literal(prompt_messages('Solve: 3x - 5 = 10', system))}",
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "outputs = model.generate(**inputs, max_new_tokens=512, temperature=0.6)",
        "print(tokenizer.decode(outputs[0]))",
        "```",
        "",
    ]


def literal(value: Any) -> str:
    """Python for plain data on one line, in which no tag but ours stands as one."""
    return re.sub(r"<(?!/?(?:think|answer)>)", r"\\x3c", repr(value))


def front_matter(stage: str, params: dict[str, Any], parent: Path | None) -> str:
    """What the Hub reads; a base model and a licence only where they are known."""
    origin = params["model"]["name_or_path"]
    data: dict[str, Any] = {}
    if is_hub_name(origin, params["model"]["revision"]):
        data["base_model"] = origin
    if parent is not None and (licence := licence_of(parent)) is not None:
        data["license"] = licence
    data |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    trained = stage != "sft" or params["sft"] is not None
    return dump(data | {"tags": ["posttrain", *(["trl", stage] if trained else [])]})


def is_hub_name(origin: str, revision: str | None) -> bool:
    return revision is not None and HUB_NAME.fullmatch(origin) is not None


def licence_of(folder: Path) -> str | None:
    """The licence that the card of a local model declares."""
    try:
        parts = read_text(folder / CARD, "", plain_yaml.MAX_BYTES).split("---\n", 2)
        data = plain_yaml.parse(parts[1], CARD, "") if len(parts) == 3 and not parts[0] else None
    except InputError:
        return None
    licence = data.get("license") if isinstance(data, dict) else None
    return licence if isinstance(licence, str) and re.fullmatch(r"[\w.+-]{1,40}", licence) else None


def start(origin: str) -> str:
    return "random weights" if origin == "scratch" else f"<code>{html.escape(origin)}</code>"


def dump(data: dict[str, Any]) -> str:
    """YAML whose every key and value is quoted or plain as YAML needs it."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(json.loads(json.dumps(data)), stream)
    return stream.getvalue()


def escape(text: str) -> str:
    """Text for a cell of a table."""
    return html.escape(" ".join(text.split())).replace("|", "&#124;").replace("`", "&#96;")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
