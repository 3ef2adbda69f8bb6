"""Workspaces and runs of benchmarks/speed.py: what is compared, each run a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
}
"""Of SmolLM2-135M; the weights are random, so nothing is downloaded and no completion ends early."""
ADOPTED = {
    "model.name_or_path": "models/base/smollm2",
    "sft": None,
    "prompts.system": "Solve the equation step by step, then check the answer.",
}
"""That model; the instruction makes prompts of 80 tokens, which is what those of GSM8K have with its tokenizer."""
Row = dict[str, float]


def params_with(changes: Mapping[str, Any]) -> dict[str, Any]:
    """params.yaml of this project with dotted keys changed."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    one_process = {"launch.strategy": "single", "launch.processes": 1, "launch.threads": 1}
    for key, value in {**one_process, **changes}.items():
        *sections, name = key.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[name] = value
    return params


def write_params(root: Path, changes: Mapping[str, Any]) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(params_with(changes), sort_keys=False), encoding="utf-8")


def workspace(root: Path, model: str) -> Path:
    """Data and the model that training starts from: `embedded`, as it is published here, or `smollm2`."""
    root.mkdir()
    for name in ("dvc.yaml", ".venv-lighteval"):
        (root / name).symlink_to(ROOT / name)
    write_params(root, {})
    posttrain(root, "prepare")
    if model == "embedded" and (ROOT / "models/sft/manifest.json").is_file():
        (root / "models").mkdir()
        (root / "models/sft").symlink_to(ROOT / "models/sft")
    elif model == "embedded":
        posttrain(root, "sft")
    else:
        make_smollm2(root)
    return root


def make_smollm2(root: Path) -> None:
    """A random Llama of that shape, with the tokenizer of the embedded recipe; `posttrain sft` adopts it."""
    code = "import json, sys; from speed_runs import save_random; save_random(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}"}
    subprocess.run([sys.executable, "-c", code, "models/base/smollm2"], cwd=root, env=environment, check=True)
    write_params(root, ADOPTED)
    posttrain(root, "sft")


def save_random(folder: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from posttrain.outputs.rows import read_rows
    from posttrain.training.from_scratch import train_tokenizer
    from posttrain.training.models import align_special_tokens

    rows = read_rows(Path("data/prepared"), "sft")
    tokenizer = train_tokenizer((row["problem"] + "\n" + row["completion"] for row in rows), 384)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SMOLLM2, tie_word_embeddings=True))
    align_special_tokens(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def posttrain(root: Path, *words: str) -> float:
    """Seconds of a command."""
    began = time.perf_counter()
    run([sys.executable, "-m", "posttrain", *words], root, 1)
    return time.perf_counter() - began


def run(command: list[str], root: Path, threads: int) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} in {root} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def measure(root: Path, stage: str, who: str, cores: int, changes: Mapping[str, Any]) -> tuple[list[Row], float]:
    """The steps of one run, and its seconds outside of them.

    `stock` takes `cores` threads; any other as many processes of one thread.
    """
    write_params(root, {**changes, **({} if cores == 1 else {"launch.strategy": "ddp", "launch.processes": cores})})
    subprocess.run(["rm", "-rf", str(root / ".posttrain"), str(root / "stock"), str(root / "phases.json")], check=True)
    began = time.perf_counter()
    if who == "stock":
        run([sys.executable, str(HERE / f"stock_{stage}.py"), str(cores)], root, cores)
    elif cores == 1:
        run([sys.executable, str(HERE / "timed_stage.py"), stage], root, 1)
    else:
        run([sys.executable, "-m", "posttrain", stage], root, 1)
    wall = time.perf_counter() - began
    rows = json.loads((root / "phases.json").read_text()) if who == "stock" or cores == 1 else clocked(root, stage)
    return rows, wall - sum(row["step"] for row in rows)


def clocked(root: Path, stage: str) -> list[Row]:
    """The table that posttrain writes of its own steps, of processes that no benchmark can reach into."""
    head, *lines = (root / f".posttrain/runs/{stage}-steps.tsv").read_text(encoding="utf-8").splitlines()
    names = {"seconds": "step", "generate_s": "generate", "reward_s": "reward", "peak_memory_mib": "rss_mib"}
    rows = [dict(zip(head.split("\t"), map(float, line.split("\t")), strict=True)) for line in lines]
    return [
        {**{name: row[key] for key, name in names.items()}, "tokens": row["tokens_per_s"] * row["seconds"]}
        for row in rows
    ]
