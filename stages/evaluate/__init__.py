"""Stage 4: models/sft and models/grpo on the held-out problems, judged by lighteval, compared with statistics.

Reads   models/sft/, models/grpo/, data/prepared/test.jsonl; the `prompts`, `verifier` and `evaluate` sections
Writes  results/evaluate/metrics.json and, for each problem and model, completions and verdicts in samples.jsonl; a
        manifest says which models they are of
Run     posttrain evaluate; `posttrain gate` reads the metrics and fails if the gain is too small

lighteval runs in `.venv-lighteval`, because its dependencies exclude those of dvc and math-verify. It generates with
transformers, or judges completions that vLLM servers gave (`evaluate.use_vllm`).
"""

import json
import math
import os
import shutil
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages import paths
from stages.errors import GateError, InputError, PosttrainError
from stages.evaluate.completions import complete
from stages.evaluate.statistics import bootstrap_interval, sign_flip_p_value, verdict
from stages.manifest import (
    MANIFEST,
    file_hashes,
    publish_files,
    read_jsonl,
    require_complete,
    scratch,
    write_json,
    write_jsonl,
)
from stages.params import Params
from stages.process_tree import clean_environment, end_of, process_tree
from stages.provenance import log_run, record, require_child
from stages.rewards import Verifier, judge

RUNNER = Path(__file__).with_name("lighteval_runner.py")
MODELS = {"sft": paths.SFT_MODEL, "grpo": paths.GRPO_MODEL}
PAIRED_SEED = 0  # of the resampling, which is part of the method and not of the experiment


def run(params: Params) -> None:
    """Evaluate both models on the same problems, compare them, publish results/evaluate."""
    began = time.monotonic()
    require_complete(paths.PREPARED, "prepare")
    manifests = {stage: require_complete(folder, stage) for stage, folder in MODELS.items()}
    require_child(paths.GRPO_MODEL, manifests["grpo"], paths.SFT_MODEL)
    made_from = record("evaluate", params)
    problems = read_jsonl(paths.PREPARED / "test.jsonl")
    require_golds(problems)
    with scratch("evaluate") as folder:
        task = spec(params, problems, folder)
        if params.evaluate.use_vllm:
            task["completions"], vllm = complete(params, problems, MODELS)
        outcome = run_lighteval(task, folder, params.launch.evaluate_timeout_s)
        if params.evaluate.use_vllm:
            outcome["versions"]["vllm"] = vllm
        with Verifier(params.verifier.timeout_s, 1.0, params.launch.reward_workers) as verifier:
            samples = join(problems, outcome, verifier)
        metrics = summary(samples, outcome, params)
        out = folder / "results"
        out.mkdir()
        write_json(out / "metrics.json", metrics)
        write_jsonl(out / "samples.jsonl", samples)
        write_json(out / MANIFEST, made_from | {"lighteval": outcome["versions"], "files": file_hashes(out)})
        publish_files(out, paths.EVALUATE_RESULTS)
    seconds = time.monotonic() - began
    log_run("evaluate", seconds=seconds, **outcome["versions"])
    show(metrics)
    print(f"evaluate | wrote {paths.EVALUATE_RESULTS}/ in {seconds:.0f} s | next: posttrain report")


def require_golds(problems: list[dict[str, Any]]) -> None:
    """Raises: InputError if the data have no gold answers to judge by."""
    if not all(problem["answer"] for problem in problems):
        raise InputError(
            str(paths.PREPARED / "test.jsonl"),
            got="problems without a gold answer (prepare.columns.answer is null)",
            wanted="a gold answer for lighteval to judge by; it does not run programs",
            do="evaluate such a model with a benchmark of its own, for instance lighteval's lcb:codegeneration",
        )


def spec(params: Params, problems: list[dict[str, str]], folder: Path) -> dict[str, Any]:
    """Everything the runner needs; the test set gets a folder of its own, where `datasets` finds nothing else."""
    data_dir = folder / "data"
    data_dir.mkdir()
    write_jsonl(data_dir / "test.jsonl", [{**row, "number": number} for number, row in enumerate(problems)])
    config = params.evaluate
    return {
        "models": {name: str(path) for name, path in MODELS.items()},
        "data_dir": str(data_dir.resolve()),
        "output_dir": str((folder / "lighteval").resolve()),
        "rows": len(problems),
        "system": params.prompts.system,
        "dtype": params.model.dtype,
        "seed": params.seed,
        "threads": params.launch.threads,
        **config.model_dump(exclude={"gate", "use_vllm"}),
    }


def lighteval_python() -> Path:
    """The interpreter of lighteval's environment; LIGHTEVAL_PYTHON overrides where it is.

    Raises: InputError naming the command that makes the environment.
    """
    python = Path(os.environ.get("LIGHTEVAL_PYTHON", paths.LIGHTEVAL_ENVIRONMENT / "bin" / "python"))
    if not os.access(python, os.X_OK):
        raise InputError(
            str(python),
            got="a file that cannot be run" if python.is_file() else "no such file",
            wanted="the Python of an environment with lighteval, which cannot share one with dvc",
            do="run `make setup`, or set LIGHTEVAL_PYTHON to an environment made from requirements/lighteval.txt",
        )
    return python.absolute()


def run_lighteval(spec: dict[str, Any], folder: Path, timeout_s: int) -> dict[str, Any]:
    """The runner's answer. Nothing that it started outlives this call, or this process.

    Raises: PosttrainError with the end of its output if it fails or takes longer than `timeout_s`.
    """
    python = lighteval_python()
    spec_path, out_path, log_path = folder / "spec.json", folder / "out.json", folder / "lighteval.log"
    write_json(spec_path, spec)
    environment = clean_environment(
        PYTHONHASHSEED="0",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",
        HF_HOME=str((folder / "huggingface").resolve()),
    )
    command = [str(python), str(RUNNER), str(spec_path), str(out_path)]
    with process_tree(command, environment, log_path) as process:
        try:
            code = process.wait(timeout_s)
            what = f"exited with {code}"
        except subprocess.TimeoutExpired:
            code, what = -1, f"took longer than launch.evaluate_timeout_s={timeout_s}"
    if code != 0:
        kept = paths.RUN_LOG / "lighteval.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log_path, kept)
        raise PosttrainError(f"lighteval {what}; its log is {kept}; it ends:\n{end_of(log_path)}")
    outcome: dict[str, Any] = json.loads(out_path.read_text(encoding="utf-8"))
    return outcome


def join(problems: list[dict[str, Any]], outcome: dict[str, Any], verifier: Verifier) -> list[dict[str, Any]]:
    """One row a problem: gold, and for each model its completions, lighteval's verdicts and our own."""
    rows = []
    for number, problem in enumerate(problems):
        row: dict[str, Any] = dict(problem)
        for name in MODELS:
            theirs = outcome[name]["rows"][number]
            texts = theirs["completions"]
            rewards = judge(texts, [problem["answer"]] * len(texts), verifier)
            row[name] = {key: theirs[key] for key in ("completions", "correct", "finished")} | {"rewards": rewards}
        rows.append(row)
    return rows


def summary(samples: list[dict[str, Any]], outcome: dict[str, Any], params: Params) -> dict[str, Any]:
    """Metrics of both models, the paired gain and the gate."""
    metrics: dict[str, Any] = {name: model_metrics(samples, name, outcome[name]["metrics"]) for name in MODELS}
    differences_P = [_mean(row["grpo"]["correct"]) - _mean(row["sft"]["correct"]) for row in samples]
    gain = bootstrap_interval(differences_P, PAIRED_SEED)
    minimum = params.evaluate.gate.min_gain
    return {
        **metrics,
        "gain": asdict(gain) | {"p_value": sign_flip_p_value(differences_P, PAIRED_SEED)},
        "verdict": verdict(gain),
        "gate": {
            "min_gain": minimum,
            "passed": minimum is None or (gain.mean >= minimum - 1e-9 and verdict(gain) == "improved"),
        },
        "problems": len(samples),
        "samples_per_problem": params.evaluate.num_samples,
    }


def model_metrics(samples: list[dict[str, Any]], name: str, lighteval: dict[str, float]) -> dict[str, Any]:
    """lighteval's own numbers, the interval of pass@1, the form, and how often our reward disagrees with lighteval."""
    completions = [
        (reward, correct, finished)
        for row in samples
        for reward, correct, finished in zip(
            row[name]["rewards"], row[name]["correct"], row[name]["finished"], strict=True
        )
    ]
    interval = bootstrap_interval([_mean(row[name]["correct"]) for row in samples], PAIRED_SEED)
    return {
        **lighteval,
        "pass@1_low": interval.low,
        "pass@1_high": interval.high,
        "format": _mean([reward["format"] for reward, _, _ in completions]),
        "finished": _mean([float(finished) for _, _, finished in completions]),
        "reward_disagrees": sum(reward["accuracy"] not in (correct, None) for reward, correct, _ in completions),
        "reward_undecided": sum(reward["accuracy"] is None for reward, _, _ in completions),
    }


def show(metrics: dict[str, Any]) -> None:
    """Both models and the claim, one line each."""
    for name in MODELS:
        m = metrics[name]
        extra = [f"{key} {m[key]:.3f}" for key in sorted(m) if key.startswith(("pass@", "maj@")) and "_" not in key]
        interval = f"[{m['pass@1_low']:.3f}, {m['pass@1_high']:.3f}]"
        print(f"evaluate | {name:4} | {' | '.join(extra)} | pass@1 95 % {interval} | format {m['format']:.3f}")
        if m["reward_disagrees"]:
            print(
                f"evaluate | {name:4} | training reward and lighteval disagree on {m['reward_disagrees']} completions"
            )
    gain = metrics["gain"]
    print(
        f"evaluate | {metrics['verdict']}: pass@1 {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}], "
        f"paired p {gain['p_value']:.2g}, {metrics['problems']} problems x {metrics['samples_per_problem']} samples"
    )


def check_gate() -> None:
    """Say whether GRPO gained what params asked for, from results/evaluate/metrics.json.

    Raises: GateError if not, InputError if there is nothing to judge.
    """
    path = paths.EVALUATE_RESULTS / "metrics.json"
    if not path.is_file():
        raise InputError(
            str(path), got="no such file", wanted="the output of `posttrain evaluate`", do="run `dvc repro` first"
        )
    metrics = json.loads(path.read_text(encoding="utf-8"))
    gain, gate = metrics["gain"], metrics["gate"]
    claim = f"{metrics['verdict']}, pass@1 {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    if gate["min_gain"] is None:
        print(f"gate | off (evaluate.gate.min_gain is null) | {claim}")
    elif gate["passed"]:
        print(f"gate | held: {claim}, at least {gate['min_gain']:+g} asked for")
    else:
        raise GateError(
            f"The gate did not hold: {claim}; evaluate.gate.min_gain asks for {gate['min_gain']:+g} and an interval "
            "above 0.\nLook at results/report.html: the curves say whether GRPO learned, the samples what it learned."
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
