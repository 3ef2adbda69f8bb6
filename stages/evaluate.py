"""Stage 4: models/sft and models/grpo on the held-out problems, judged as in training, compared with statistics.

Reads   models/sft/, models/grpo/, the base if `evaluate.base`, data/prepared/test.jsonl; the `model`, `prompts`,
        `verifier` and `evaluate` sections
Writes  results/evaluate/metrics.json and, for each problem and model, completions and verdicts in samples.jsonl; a
        manifest says which models they are of
Run     posttrain evaluate; `posttrain gate` reads the metrics and fails if the gain is too small

lighteval runs in `.venv-lighteval`, because its dependencies exclude those of dvc and math-verify. It generates with
transformers, or judges completions that vLLM servers gave (`evaluate.use_vllm`).
"""

import time

from posttrain import paths
from posttrain.evaluation.completions import complete
from posttrain.evaluation.lighteval_process import MODELS, run_lighteval, spec
from posttrain.evaluation.metrics import join, require_golds, show, summary
from posttrain.evaluation.rows import models
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import (
    MANIFEST,
    beside,
    file_hashes,
    publish_files,
    read_jsonl,
    unpublished,
    write_json,
    write_jsonl,
)
from posttrain.outputs.parents import require_child, require_out
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.rewards.scoring import Verifier


def run(params: Params) -> None:
    """Evaluate the models on the same problems, compare them, publish results/evaluate."""
    began = time.monotonic()
    require_out(paths.PREPARED, "prepare")
    manifests = {stage: require_out(folder, stage) for stage, folder in MODELS.items()}
    require_child(paths.GRPO_MODEL, manifests["grpo"], paths.SFT_MODEL)
    made_from = Origin("evaluate", params).record
    problems = read_jsonl(paths.PREPARED / "test.jsonl")
    require_golds(problems)
    with unpublished("evaluate") as folder:
        compared = models(params, folder)
        task = spec(params, problems, compared, folder)
        if params.evaluate.use_vllm:
            task["completions"], vllm = complete(params, problems, compared)
        outcome = run_lighteval(task, folder, params.launch.evaluate_timeout_s)
        if params.evaluate.use_vllm:
            outcome["versions"]["vllm"] = vllm
        with Verifier(params.verifier.timeout_s, 1.0, params.launch.reward_workers) as verifier:
            samples = join(problems, outcome, verifier)
            metrics = summary(samples, outcome, params, verifier)
    with beside(paths.EVALUATE_RESULTS) as out:
        write_json(out / "metrics.json", metrics)
        write_jsonl(out / "samples.jsonl", samples)
        write_json(out / MANIFEST, made_from | {"lighteval": outcome["versions"], "files": file_hashes(out)})
        publish_files(out, paths.EVALUATE_RESULTS)
    seconds = time.monotonic() - began
    log_run("evaluate", seconds=seconds, **outcome["versions"])
    show(metrics)
    print(f"evaluate | wrote {paths.EVALUATE_RESULTS}/ in {seconds:.0f} s | next: posttrain report")
