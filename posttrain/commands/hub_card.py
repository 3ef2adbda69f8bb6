"""The card that goes to the Hub: a model's own, with its data, its licence and what the evaluation found.

Reads   README.md and manifest.json of the model, results/evaluate, the manifest of data/prepared
Writes  nothing: the evaluation comes after the model, whose files stay as they are
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from posttrain.commands.lineage import SHORT, read_numbers
from posttrain.errors import InputError
from posttrain.outputs.manifest import MANIFEST, read_manifest, sha256
from posttrain.paths import EVALUATE_RESULTS, PREPARED
from posttrain.text_files import read_text
from posttrain.training.card import CARD, escape, is_hub_name

LATER = "What it does on held-out problems is in the evaluation of the project."
"""How a model's own card ends, before there is an evaluation."""
METRICS = "metrics.json"


def hub_card(model: Path, repo: str, licence: str | None, found: Mapping[str, Any] | None) -> ModelCard:
    """The model's card as the Hub gets it, with what `evaluation` found of the model.

    Raises: InputError if a section of the model's own card that this one changes is not there
    """
    name = repo.rpartition("/")[2]
    own = ModelCard(read_text(model / CARD, f"run `posttrain {model.name}` again"), ignore_metadata_errors=True)
    about = own.data.to_dict()
    about |= {"license": licence} if licence else {}
    about |= {"datasets": named} if (named := hub_datasets()) else {}
    about |= {"model_name": name, "eval_results": results(found, model.name)} if found else {}
    body = own.content.partition("---\n")[2].partition("---\n")[2]
    for old, new in replacements(model, repo, name, section(found, model.name)).items():
        if old not in body:
            raise InputError(
                str(model / CARD),
                got=f"no `{old.strip()}` there",
                wanted="the card that posttrain wrote",
                do=f"run `posttrain {model.name}` again",
            )
        body = body.replace(old, new)
    return ModelCard(f"---\n{ModelCardData(**about).to_yaml()}\n---\n{body}")


def replacements(model: Path, repo: str, name: str, told: str) -> dict[str, str]:
    return {f"\n# {model.name}\n": f"\n# {name}\n", f'("{model}")': f'("{repo}")', LATER: told}


def evaluation(model: Path) -> dict[str, Any] | None:
    """The metrics and settings of the evaluation of this very model; None if another one was evaluated, or none."""
    path = EVALUATE_RESULTS / MANIFEST
    if not path.is_file():
        return None
    manifest = read_manifest(path, "run `posttrain evaluate` again")
    metrics = EVALUATE_RESULTS / METRICS
    of_this = manifest.get("parents", {}).get(str(model)) == sha256(model / MANIFEST)
    if not of_this or not metrics.is_file() or manifest["files"].get(METRICS) != sha256(metrics):
        return None
    return {"metrics": read_numbers(metrics, "evaluate"), "params": manifest["params"], "manifest": sha256(path)}


def hub_datasets() -> list[str]:
    """The sources of data/prepared that are on the Hub."""
    return sorted({source["dataset"] for source in sources() if is_hub_name(source["dataset"], source.get("revision"))})


def sources() -> list[dict[str, Any]]:
    """What `prepare.dataset` named: one source, or those of a mixture."""
    path = PREPARED / MANIFEST
    if not path.is_file():
        return []
    prepare = read_manifest(path, "run `posttrain prepare` again")["params"]["prepare"]
    named = prepare["dataset"]
    return [prepare] if isinstance(named, str) else list(named)


# ---------------------------------------------------------------------------------------------------------------------
# What the evaluation found


def tasks(found: Mapping[str, Any], stage: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, numbers of problems and samples, and the model's metrics, of each task in which the model is."""
    metrics = found["metrics"]
    for name, block in {"held_out": metrics, **metrics.get("tasks", {})}.items():
        if "pass@1" in block.get(stage, {}):
            yield name, block, block[stage]


def results(found: Mapping[str, Any], stage: str) -> list[EvalResult]:
    """A result for each metric of each task, unverified: nobody but us measured it."""
    asked = found["params"]["evaluate"]
    given = {key: asked[key] for key in ("temperature", "top_p", "max_new_tokens") if key in asked}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=kind(name),
            dataset_name=title(name),
            metric_type=metric,
            metric_name=metric + (f", 95 % {interval(values)}" if metric == "pass@1" else ""),
            metric_value=values[metric],
            metric_args={**given, "samples_per_problem": block["samples_per_problem"], "problems": block["problems"]},
            verified=False,
        )
        for name, block, values in tasks(found, stage)
        for metric in rates(values, block["samples_per_problem"])
    ]


def rates(values: Mapping[str, Any], samples: int) -> list[str]:
    return [key for key in dict.fromkeys(("pass@1", f"pass@{samples}", f"maj@{samples}")) if key in values]


def interval(values: Mapping[str, Any]) -> str:
    return f"[{values['pass@1_low']:.3f}, {values['pass@1_high']:.3f}]"


def kind(task: str) -> str:
    """The dataset of a task: for held-out problems, where they are from."""
    return "+".join(Path(source["dataset"]).name or "held_out" for source in sources()) if task == "held_out" else task


def title(task: str) -> str:
    return f"held-out problems of {kind(task)}" if task == "held_out" else Path(task).stem


def section(found: Mapping[str, Any] | None, stage: str) -> str:
    """The evaluation as a person reads it."""
    if found is None:
        return "It was not evaluated on held-out problems."
    rows = [
        f"| {escape(title(name))} | {block['problems']} x {block['samples_per_problem']} | {metric} | "
        f"{values[metric]:.3f} | {interval(values) if metric == 'pass@1' else ''} |"
        for name, block, values in tasks(found, stage)
        for metric in rates(values, block["samples_per_problem"])
    ]
    gain = found["metrics"].get("gain") if stage == "grpo" else None
    asked = found["params"]["evaluate"]
    return "\n".join(
        [
            "What it does on problems that it was not trained on is below.",
            "",
            "## Evaluation",
            "",
            "| problems | number x samples | metric | value | 95 % |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *([f"Gain over SFT: {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}].", ""] if gain else []),
            f"Sampled with temperature {json.dumps(asked['temperature'])}, top_p {json.dumps(asked['top_p'])}, at most "
            f"{asked['max_new_tokens']} tokens. Measured by posttrain; results/evaluate, manifest "
            f"{found['manifest'][:SHORT]}. Nobody else verified it.",
        ]
    )
