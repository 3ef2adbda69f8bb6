"""Stage 4: models/sft and models/grpo on the held-out problems, judged as in training, compared with statistics.

Reads   models/sft/, models/grpo/, the base if `evaluate.base`, data/prepared/test.jsonl, the data of further tasks; the
        `model`, `prompts`, `verifier` and `evaluate` sections
Writes  results/evaluate/metrics.json and, for each problem and model, completions and verdicts in samples.jsonl; a
        manifest says which models they are of; results/evaluate.json, the few that DVC compares
Run     posttrain evaluate; `posttrain gate` reads the metrics and fails if the gain is too small

Completions come from the models in this process, or from vLLM servers (`evaluate.use_vllm`), or are kept from a run
that asked the same. lighteval judges them too, in `.venv-lighteval`, because its dependencies exclude those of dvc and
math-verify.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from posttrain import paths
from posttrain.evaluation.evaluation import Found, evaluate
from posttrain.evaluation.lighteval_process import Lighteval
from posttrain.evaluation.metrics import block, key_metrics, show, summary
from posttrain.evaluation.settings import Settings
from posttrain.evaluation.subjects import MODELS, Subject, models
from posttrain.evaluation.tasks import HELD_OUT, asked_of, load
from posttrain.generation.generators import Generator
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import (
    MANIFEST,
    beside,
    file_hashes,
    publish_files,
    publish_json,
    unpublished,
    write_json,
    write_jsonl,
)
from posttrain.outputs.parents import require_child, require_out
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.rewards.scoring import Verifier
from posttrain.vllm.generator import VLLMServer

NUM_TRACKED = 16
"""Rows of samples that trackers show."""


def run(params: Params) -> None:
    """Evaluate the models on the same problems, compare them, publish results/evaluate."""
    began = time.monotonic()
    require_out(paths.PREPARED, "prepare")
    manifests = {stage: require_out(folder, stage) for stage, folder in MODELS.items()}
    require_child(paths.GRPO_MODEL, manifests["grpo"], paths.SFT_MODEL)
    origin = Origin.now("evaluate", params)
    settings = Settings.of(params)
    with unpublished("evaluate") as folder, Verifier(params.verifier.timeout_s, 1.0, params.launch.reward_workers) as v:
        runner = Lighteval(folder, settings.system, settings.num_samples, params.launch.evaluate_timeout_s)
        tasks = load(asked_of(params.evaluate.tasks), runner, None, v)
        subjects = [
            Subject(name, path, settings.system, settings.trust_remote_code)
            for name, path in models(params, folder).items()
        ]
        found = evaluate(subjects, tasks, settings, partial(generator, params, settings), runner, v)
    metrics = metrics_of(found, params)
    origin.require_same_parents()
    with beside(paths.EVALUATE_RESULTS) as out:
        write_json(out / "metrics.json", metrics)
        write_jsonl(out / "samples.jsonl", samples(found))
        write_json(out / MANIFEST, origin.record | {"lighteval": found.versions, "files": file_hashes(out)})
        publish_json(paths.EVALUATE_METRICS, key_metrics(metrics))
        publish_files(out, paths.EVALUATE_RESULTS)
    track(params, metrics, samples(found))
    seconds = time.monotonic() - began
    log_run("evaluate", seconds=seconds, **found.versions)
    show(metrics)
    print(f"evaluate | wrote {paths.EVALUATE_RESULTS}/ in {seconds:.0f} s | next: posttrain report")


def generator(params: Params, settings: Settings, folder: Path) -> Generator:
    if params.evaluate.use_vllm:
        return VLLMServer(folder, params, settings.num_samples)
    return settings.in_this_process(folder, params.launch)


def metrics_of(found: Found, params: Params) -> dict[str, Any]:
    """The claim, which is of the held-out problems, and a block for each further task."""
    claim = summary(found.rows[HELD_OUT], found.metrics[HELD_OUT], params.evaluate.gate.min_gain)
    further = {name: block(rows, found.metrics[name]) for name, rows in found.rows.items() if name != HELD_OUT}
    return claim | ({"tasks": further} if further else {})


def track(params: Params, metrics: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The figures, and the first rows, in the run that sft and grpo wrote to."""
    if not params.launch.report_to:
        return
    from posttrain.training.trackers import figures, trackers

    with trackers("evaluate", params) as run:
        run.scalars({f"evaluate/{name}": value for name, value in figures(metrics).items()}, 0)
        run.table("samples", rows[:NUM_TRACKED], 0)


def samples(found: Found) -> list[dict[str, Any]]:
    """Rows of all tasks; those that are not held out say theirs."""
    return [row if task == HELD_OUT else {"task": task, **row} for task, rows in found.rows.items() for row in rows]
