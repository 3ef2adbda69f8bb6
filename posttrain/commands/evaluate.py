"""Any models on any tasks, without a pipeline: folders or names on the Hub, evaluated side by side.

Reads   the models; of params.yaml, if it is there, the sections `evaluate`, `prompts`, `verifier`, `launch`, the seed
Writes  DIR/metrics.json, samples.jsonl and manifest.json, which `posttrain compare` reads
Run     posttrain evaluate MODEL [MODEL ...] [--tasks gsm8k=data/source/gsm8k,own.jsonl] [--output DIR]

Nothing that comes with a model is run: no code of its own, no pickle but through torch's loader of tensors.
"""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from posttrain.errors import InputError
from posttrain.evaluation.evaluation import Found, evaluate, require_apart
from posttrain.evaluation.lighteval_process import Lighteval
from posttrain.evaluation.metrics import block, show_tasks
from posttrain.evaluation.settings import ASKED, Settings, asked
from posttrain.evaluation.subjects import Subject
from posttrain.evaluation.tasks import HELD_OUT, Asked, asked_of, load
from posttrain.generation.generators import Generator
from posttrain.outputs.facts import versions
from posttrain.outputs.manifest import (
    MANIFEST,
    beside,
    file_hashes,
    publish_files,
    unpublished,
    write_json,
    write_jsonl,
)
from posttrain.outputs.parents import require_out
from posttrain.outputs.weight_files import read_json
from posttrain.params.file import launch_of, merged, read_yaml
from posttrain.params.launch import Launch
from posttrain.params.schema import Dtype, Evaluate
from posttrain.params.schema import Verifier as VerifierParams
from posttrain.paths import PARAMS, PREPARED
from posttrain.rewards.scoring import Verifier
from posttrain.training.pretrained import require_folder

DEFAULTS: dict[str, Any] = {
    "num_samples": 1,
    "temperature": 0.6,
    "top_p": 1.0,
    "max_new_tokens": 512,
    "batch_size": 16,
    "seed": 1,
}
"""Where neither params.yaml nor an option says otherwise."""
VERIFIER = {"timeout_s": 5.0, "max_timeout_frac": 1.0}
OPTIONS = {
    **{"samples": "num_samples", "temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_new_tokens"},
    **{"batch_size": "batch_size", "seed": "seed", "system": "system"},
}
"""Options of the command that stand in for a setting."""
EVALUATIONS = Path("results/evaluations")
COMMIT = re.compile(r"[0-9a-f]{40}")
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""Files of a Hub repository that are fetched: no code, no pickles."""


@dataclass(frozen=True)
class Context:
    """What params.yaml says of an evaluation, or its defaults."""

    asked: dict[str, Any]
    tasks: list[Asked]
    verifier: VerifierParams
    launch: Launch


def run(models: list[str], options: Mapping[str, Any]) -> None:
    """Evaluate the models, write the results, print the table.

    Raises: InputError for a model, a task or an option that cannot be used
    """
    began, context = time.monotonic(), context_of(PARAMS)
    named = [Asked.of(text) for text in options["tasks"].split(",")] if options["tasks"] else context.tasks
    require_tasks(named)
    names = {name_of(model): model for model in models}
    require_apart([name_of(model) for model in models])
    require_apart([Path(one.name).stem for one in named])
    folders = {name: folder_of(model) for name, model in names.items()}
    settings = settings_of(context, options)
    output = options["output"] or EVALUATIONS / "-".join(names)
    found = evaluated(folders, named, settings, context, options["limit"], options["dtype"])
    record = {
        "models": {
            name: {"source": names[name], "dtype": options["dtype"] or dtype_of(folder), "files": file_hashes(folder)}
            for name, folder in folders.items()
        },
        "settings": {key: value for key, value in settings.record().items() if key != "dtype"},
        "tasks": {one.name: None if one.data is None else str(one.data) for one in named},
        "limit": options["limit"],
    }
    write(output, found, record)
    show_tasks({task: block(rows, found.metrics[task]) for task, rows in found.rows.items()})
    print(f"evaluate | wrote {output}/ in {time.monotonic() - began:.0f} s | next: posttrain compare {output} OTHER")


def evaluated(
    folders: Mapping[str, Path],
    named: list[Asked],
    settings: Settings,
    context: Context,
    limit: int | None,
    dtype: Dtype | None,
) -> Found:
    def generator(folder: Path) -> Generator:
        return replace(settings, dtype=dtype or dtype_of(folder)).in_this_process(folder, context.launch)

    subjects = [Subject(name, folder, settings.system) for name, folder in folders.items()]
    workers, timeout_s = context.launch.reward_workers, context.launch.evaluate_timeout_s
    with unpublished("evaluate") as room, Verifier(context.verifier.timeout_s, 1.0, workers) as verifier:
        runner = Lighteval(room, settings.system, settings.num_samples, timeout_s)
        tasks = load(named, runner, limit, verifier)
        return evaluate(subjects, tasks, settings, generator, runner, verifier)


def write(output: Path, found: Found, record: dict[str, Any]) -> None:
    """Metrics and manifest, and a row for each problem of each task."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with beside(output) as out:
        blocks = {task: block(rows, found.metrics[task]) for task, rows in found.rows.items()}
        write_json(out / "metrics.json", {"tasks": blocks})
        write_jsonl(out / "samples.jsonl", [{"task": task, **row} for task, rows in found.rows.items() for row in rows])
        facts = record | {"versions": versions(), "lighteval": found.versions}
        write_json(out / MANIFEST, {**facts, "files": file_hashes(out)})
        publish_files(out, output)


# ---------------------------------------------------------------------------------------------------------------------
# What is asked


def context_of(path: Path) -> Context:
    """Sections of a params file that are there, and defaults for the rest.

    Raises: InputError naming a wrong key
    """
    data = read_yaml(path) if path.is_file() else {}
    section = {"tasks": [HELD_OUT], "use_vllm": False, "base": False, "gate": {"min_gain": None}} | {
        key: DEFAULTS[key] for key in ASKED
    }
    try:
        known = Evaluate.model_validate({**section, **data.get("evaluate", {})})
        launch = Launch.model_validate(merged(data.get("launch", {}), launch_of(os.environ)))
        verifier = VerifierParams.model_validate(VERIFIER | data.get("verifier", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: {error.title.lower()}.{where}",
            got=repr(first.get("input"))[:100],
            wanted=first["msg"],
            do=f"change it in {path}",
        ) from None
    said = asked(known) | {
        "seed": data.get("seed", DEFAULTS["seed"]),
        "system": (data.get("prompts") or {}).get("system"),
    }
    tasks = asked_of(known.tasks) if "tasks" in data.get("evaluate", {}) else []
    return Context(said, tasks, verifier, launch)


def require_tasks(named: list[Asked]) -> None:
    """Raises: InputError if there are none, or if the held-out problems are asked for and not there"""
    if not named:
        raise InputError(
            "--tasks",
            got="none, and no evaluate.tasks in params.yaml here",
            wanted="what to ask the models",
            do="--tasks gsm8k, --tasks gsm8k=FOLDER with a local copy of its data, or --tasks FILE.jsonl",
        )
    if any(one.name == HELD_OUT for one in named):
        require_out(PREPARED, "prepare")


def settings_of(context: Context, options: Mapping[str, Any]) -> Settings:
    """Options of the command, else params.yaml, else the defaults.

    Raises: InputError if they do not fit together
    """
    given = {name: options[option] for option, name in OPTIONS.items() if options[option] is not None}
    settings = Settings(**context.asked | given, dtype="float32")
    if settings.temperature == 0 and settings.num_samples > 1:
        raise InputError(
            "--samples",
            got=f"{settings.num_samples}, and temperature 0, which always gives the same completion",
            wanted="one sample, or a temperature above 0",
            do="add --samples 1 or --temperature 0.6",
        )
    return settings


# ---------------------------------------------------------------------------------------------------------------------
# Models


def name_of(model: str) -> str:
    """What a model is called in the results: its folder's name, or the repository's."""
    return (
        Path(model.partition("@")[0]).resolve().name if Path(model).is_dir() else model.partition("@")[0].split("/")[-1]
    )


def folder_of(model: str) -> Path:
    """The folder of a model, fetched from the Hub if it is none here.

    Raises: InputError if there is no model, or no commit of one on the Hub
    """
    if Path(model).is_dir():
        require_folder(Path(model))
        return Path(model)
    name, _, commit = model.partition("@")
    if model.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(model, got="no such folder", wanted="a model", do="mend the path")
    if not COMMIT.fullmatch(commit):
        raise InputError(
            model,
            got=f"no folder here, and {f'{commit!r} for a commit' if commit else 'no commit'} of a model on the Hub",
            wanted="a folder, or NAME@COMMIT with 40 hexadecimal digits; a branch moves",
            do="mend the path, or copy the commit from the model's `Files and versions` page",
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=list(WANTED)))
    except Exception as error:  # noqa: BLE001 - huggingface_hub's, httpx's and those of sockets share no narrower one
        raise InputError(
            model,
            got=" ".join(str(error).split())[:200] or type(error).__name__,
            wanted="a model on the Hub that can be reached",
            do="check name, commit and network",
        ) from None
    require_folder(folder)
    return folder


def dtype_of(folder: Path) -> Dtype:
    """That of the checkpoint, where it is bfloat16; else float32, which holds any other's values."""
    config = read_json(folder / "config.json")
    return "bfloat16" if config.get("dtype", config.get("torch_dtype")) == "bfloat16" else "float32"
