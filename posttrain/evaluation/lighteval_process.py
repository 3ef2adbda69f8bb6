"""lighteval in an environment of its own: what it is asked, and the process that answers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain import paths
from posttrain.errors import InputError, PosttrainError
from posttrain.outputs.manifest import write_json, write_jsonl
from posttrain.params.schema import Params
from posttrain.processes.process_tree import clean_environment, end_of, process_tree

RUNNER = Path(__file__).with_name("lighteval_runner.py")


MODELS = {"sft": paths.SFT_MODEL, "grpo": paths.GRPO_MODEL}
"""Those that this pipeline has made."""


def spec(params: Params, problems: list[dict[str, str]], models: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Everything the runner needs; the test set gets a folder of its own, where `datasets` finds nothing else."""
    data_dir = folder / "data"
    data_dir.mkdir()
    write_jsonl(data_dir / "test.jsonl", [{**row, "number": number} for number, row in enumerate(problems)])
    config = params.evaluate
    return {
        "models": {name: str(path) for name, path in models.items()},
        "data_dir": str(data_dir.resolve()),
        "output_dir": str((folder / "lighteval").resolve()),
        "rows": len(problems),
        "system": params.prompts.system,
        "dtype": params.model.dtype,
        "seed": params.seed,
        "threads": params.launch.threads,
        **config.model_dump(exclude={"base", "gate", "use_vllm"}),
    }


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
