"""What the results were made from: data, params, the chain of hashes, the work that went into them.

No commit, date or seconds: they differ between equal runs, and equal results give an equal page. `posttrain report`
prints them, from the untracked run log.
"""

import hashlib
import io
import json
from typing import Any

from ruamel.yaml import YAML

from posttrain import paths
from posttrain.errors import InputError
from posttrain.outputs.json_files import read_object
from posttrain.outputs.manifest import MANIFEST, sha256
from posttrain.reporting.results import Results

SHORT = 12
REMOVE = "remove it: it only says how long the stages took"
RUNS = {"prepare": paths.PREPARED, "sft": paths.SFT_MODEL, "grpo": paths.GRPO_MODEL, "evaluate": paths.EVALUATE_RESULTS}


def lineage(results: Results) -> list[dict[str, Any]]:
    """The chain from the data to the evaluation: each folder with the sha256 of its manifest."""
    parents = results.manifests["evaluate"].get("parents", {})
    chain = {
        "data/prepared": results.hashes["prepare"],
        **{name: parents[name] for name in ("models/base", "models/sft", "models/grpo") if name in parents},
        "results/evaluate": results.hashes["evaluate"],
    }
    manifests = {"data/prepared": results.manifests["prepare"], "results/evaluate": results.manifests["evaluate"]}
    return [
        {"name": name, "hash": value, "code": code(manifests.get(name, {})), "broken": broken(name, value, parents)}
        for name, value in chain.items()
    ]


def broken(name: str, value: str, parents: dict[str, str]) -> bool:
    """Whether the evaluation was made from another one."""
    return name in parents and parents[name] != value


def code(manifest: dict[str, Any]) -> str:
    """One hash for all modules that a stage ran; nothing where no manifest says."""
    modules = manifest.get("code")
    return hashlib.sha256(json.dumps(modules, sort_keys=True).encode()).hexdigest() if modules else ""


def params(results: Results) -> dict[str, Any]:
    """What params.yaml held, hardware left out: of the data and the evaluation as their manifests record it."""
    found = results.params.model_dump(mode="json", exclude={"launch"})
    for stage in ("prepare", "evaluate"):
        found |= results.manifests[stage].get("params", {})
    return found


def as_yaml(data: dict[str, Any]) -> str:
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 100
    yaml.dump(data, text)
    return text.getvalue()


def work(results: Results) -> dict[str, int]:
    """What was done, in units that no machine changes."""
    grpo, found = results.params.grpo, results.curves["grpo"]
    completions = grpo.prompts_per_step * grpo.num_generations * int(results.health["steps"]["trained"])
    sizes = [value for value in found.get("completions/mean_length", []) if value is not None]
    mean = sum(sizes) / len(sizes) if sizes else 0
    evaluated = sum(len(row[name]["completions"]) for row in results.samples for name in results.models)
    counted = {
        "parameters of the model": results.sft.get("parameters", 0),
        "tokens seen in SFT": results.sft.get("tokens_seen", 0),
        "completions sampled in GRPO": completions,
        "tokens sampled in GRPO": round(completions * mean),
        "completions evaluated": evaluated,
    }
    return {name: count for name, count in counted.items() if count}


def runs() -> list[str]:
    """Seconds, processor and commit of the runs that made what is here, where this machine's log knows them."""
    found = []
    for stage, folder in RUNS.items():
        log, manifest = paths.RUN_LOG / f"{stage}.json", folder / MANIFEST
        if not log.is_file() or not manifest.is_file():
            continue
        try:
            found += line_of(stage, read_object(log, REMOVE), sha256(manifest))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(str(log), got=f"another form: {error!r}", wanted="what a run logged", do=REMOVE) from None
    return found


def line_of(stage: str, run: dict[str, Any], manifest: str) -> list[str]:
    """Nothing for the log of a run that made something else."""
    if run.get("manifest") != manifest or "seconds" not in run:
        return []
    made = run.get("git") or {}
    commit = f"commit {made['commit'][:SHORT]}{' with changes' if made['dirty'] else ''}" if made else "no commit"
    machine = f"{run['machine']['processor']}, {run['machine']['cores']} cores"
    return [f"{stage} {run['seconds']:.0f} s on {machine}, {commit}"]
