"""lighteval in an environment of its own: what it is asked, and the process that answers.

It is the one implementation of `Runner` (runner.py). It generates nothing: completions are given to it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain import paths
from posttrain.errors import InputError, PosttrainError
from posttrain.evaluation.runner import Benchmark, Exam, Judged, Verdicts
from posttrain.outputs.manifest import write_json, write_jsonl
from posttrain.processes.process_tree import clean_environment, end_of, process_tree

RUNNER = Path(__file__).with_name("lighteval_runner.py")


@dataclass(frozen=True)
class Lighteval:
    """The evaluator that ships: benchmarks, and verdicts of its own on completions that are given."""

    folder: Path
    """Room for what it reads and writes."""
    system: str | None
    num_samples: int
    timeout_s: int

    def documents(self, benchmarks: Sequence[Benchmark]) -> dict[str, list[dict[str, Any]]]:
        tasks = [self.task(benchmark.name, benchmark) for benchmark in benchmarks]
        found: dict[str, list[dict[str, Any]]] = self.run("documents", tasks, {})["documents"]
        return found

    def judge(self, exams: Sequence[Exam], models: Mapping[str, Path]) -> tuple[Verdicts, dict[str, str]]:
        tasks = [self.task(exam.name, exam.benchmark, exam) for exam in exams]
        outcome = self.run("judge", tasks, {name: str(path) for name, path in models.items()})
        verdicts = {
            task: {name: Judged(results[name]["metrics"], results[name]["correct"]) for name in models}
            for task, results in outcome["results"].items()
        }
        return verdicts, outcome["versions"]

    def task(self, name: str, benchmark: Benchmark | None, exam: Exam | None = None) -> dict[str, Any]:
        """What the runner is told of one task. Problems of ours get a folder, where `datasets` finds nothing else."""
        data = benchmark.data.resolve() if benchmark is not None and benchmark.data is not None else None
        told: dict[str, Any] = {
            "name": name,
            "benchmark": benchmark is not None,
            "limit": benchmark.limit if benchmark is not None else None,
        }
        if exam is not None:
            told["answers"] = {model: [one._asdict() for one in rows] for model, rows in exam.answers.items()}
            if benchmark is None:
                data = self.write_problems(exam)
        return told | {"data_dir": None if data is None else str(data)}

    def write_problems(self, exam: Exam) -> Path:
        folder = self.folder / f"data-{len(list(self.folder.glob('data-*')))}"
        folder.mkdir(parents=True)
        rows = [
            {"id": problem["id"], "problem": problem["problem"], "answer": problem["answer"], "number": number}
            for number, problem in enumerate(exam.problems)
        ]
        write_jsonl(folder / "test.jsonl", rows)
        return folder.resolve()

    def run(self, work: str, tasks: list[dict[str, Any]], models: dict[str, str]) -> dict[str, Any]:
        """Raises: InputError for a benchmark that lighteval has not"""
        spec = {
            "work": work,
            "tasks": tasks,
            "models": models,
            "system": self.system,
            "num_samples": self.num_samples,
            "output_dir": str((self.folder / "lighteval").resolve()),
        }
        outcome = run_lighteval(spec, self.folder, self.timeout_s)
        for name, near in outcome.get("unknown", {}).items():
            raise InputError(
                f"task {name}",
                got="no task of lighteval's",
                wanted="held_out, a .jsonl file, or a name such as gsm8k, math_500, aime24, gpqa:diamond",
                do=f"did you mean {' or '.join(near)}?" if near else "name another",
            )
        return outcome


def lighteval_python() -> Path:
    """The interpreter of lighteval's environment: LIGHTEVAL_PYTHON, else that of the working folder, else the one
    beside the environment that runs, for a worktree or DVC's temporary workspace, which git makes without either.

    Raises: InputError naming the command that makes the environment.
    """
    named = os.environ.get("LIGHTEVAL_PYTHON")
    folders = (paths.LIGHTEVAL_ENVIRONMENT, Path(sys.prefix).parent / paths.LIGHTEVAL_ENVIRONMENT)
    candidates = [Path(named)] if named else [folder / "bin" / "python" for folder in folders]
    python = next((path for path in candidates if os.access(path, os.X_OK)), candidates[0])
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
    from_hub = any(task["data_dir"] is None for task in spec["tasks"])
    alone = {"HF_HUB_OFFLINE": "1", "HF_HOME": str((folder / "huggingface").resolve())}
    environment = clean_environment(PYTHONHASHSEED="0", TOKENIZERS_PARALLELISM="false", **({} if from_hub else alone))
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
