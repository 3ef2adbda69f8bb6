"""posttrain on one NVIDIA GPU, check by check; `make test-gpu` prints the table. Needs neither network nor set-up.

Each check runs the stages as a user does, on the embedded recipe cut short, and is skipped with its reason where the
machine lacks what it needs. Exits with 1 if one failed, with 2 if posttrain cannot run at all.

    python -m tests.gpu [--device cuda] [--steps 300] [--only NAME ...]
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NEEDED = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "math_verify", "pydantic", "ruamel.yaml")
LIMIT_S = 400
PROBLEMS = 32
LORA = {"r": 8, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear", "quantize_4bit": True}
Changes = dict[str, dict[str, Any]]


class Skip(Exception):
    """What this machine lacks for a check."""


@dataclass
class Machine:
    """Where the checks run, and the folder with a workspace for each."""

    device: str
    steps: int
    folder: Path

    def workspace(self, name: str, changes: Changes, start: str | None = None) -> Path:
        """Params of the embedded recipe with changes, and data and models of another check's workspace."""
        from ruamel.yaml import YAML

        root = self.folder / name
        root.mkdir()
        if start is not None:
            for out in ("data", "models"):
                shutil.copytree(self.folder / start / out, root / out)
        shutil.copy(ROOT / "dvc.yaml", root)
        yaml = YAML(typ="safe", pure=True)
        params = yaml.load(ROOT / "params.yaml")
        short: Changes = {
            "sft": {"max_steps": self.steps, "warmup_steps": self.steps // 6, "logging_steps": max(1, self.steps // 6)},
            "grpo": {"max_steps": max(2, self.steps // 25), "warmup_steps": 1},
            "launch": {"device": self.device, "processes": 1},
        }
        for section, keys in [*short.items(), *changes.items()]:
            params[section].update(keys)
        yaml.dump(params, root / "params.yaml")
        return root


def start(root: Path, stage: str) -> "subprocess.Popen[str]":
    # Packages may be in a folder of PYTHONPATH, where nothing can be installed.
    code = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": code, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "posttrain", stage],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(root: Path, *stages: str) -> None:
    """Raises: AssertionError with the end of the output of a stage that fails or takes too long."""
    for stage in stages:
        process = start(root, stage)
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        assert process.returncode == 0, f"{stage} exited with {process.returncode}:\n{output[-3000:]}"


def metrics(root: Path, stage: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((root / f"results/{stage}/metrics.json").read_text())
    return found


def seconds(root: Path, stage: str) -> float:
    """Those of a stage, its imports left out."""
    record = json.loads((root / f".posttrain/runs/{stage}.json").read_text())
    return float(record["seconds"])


def loss(root: Path) -> float:
    return metrics(root, "sft")["loss"]


def near(root: Path, other: Path, relative: float) -> str:
    """How far the loss of a run of sft is from another's; both have seen the same rows in the same order."""
    found, wanted = loss(root), loss(other)
    apart = abs(found - wanted) / wanted
    assert apart <= relative, f"loss {found:.5g}, and {wanted:.5g} in {other.name}: {apart:.1e} apart"
    return f"sft loss {found:.5g}, {apart:.1e} from {other.name}"


# ---------------------------------------------------------------------------------------------------------------------
# The checks. Those after the first start from its data and model.


def float32(machine: Machine) -> str:
    root = machine.workspace("float32", {})
    run(root, "prepare", "sft", "grpo")
    told = metrics(root, "grpo")
    times = [f"{stage} {seconds(root, stage):.0f} s" for stage in ("sft", "grpo")]
    return f"sft loss {loss(root):.5g}, {len(told)} metrics of grpo, {', '.join(times)}"


def bfloat16(machine: Machine) -> str:
    """Mixed precision; weights and optimizer stay in float32."""
    root = machine.workspace("bfloat16", {"launch": {"device": machine.device, "mixed_precision": "bf16"}}, "float32")
    run(root, "sft", "grpo")
    return near(root, machine.folder / "float32", 0.1)


def again(machine: Machine) -> str:
    """The same run once more. Kernels of a GPU may add in another order, so equal bytes are told and not asked for."""
    root = machine.workspace("again", {}, "float32")
    run(root, "sft")
    weights = [(folder / "models/sft/model.safetensors").read_bytes() for folder in (root, machine.folder / "float32")]
    return f"{near(root, machine.folder / 'float32', 0.05)}; bytes {'equal' if weights[0] == weights[1] else 'differ'}"


def resume(machine: Machine) -> str:
    """SIGKILL half-way, then the same command."""
    root = machine.workspace("resume", {"launch": {"device": machine.device, "checkpoint_every_s": 0}}, "float32")
    process = start(root, "sft")
    assert process.stdout is not None
    half = f"sft {machine.steps // 2}/"
    for line in process.stdout:
        if line.startswith(half):
            break
    os.killpg(process.pid, signal.SIGKILL)
    rest = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed:\n{rest[-3000:]}"
    run(root, "sft")
    return f"killed after step {machine.steps // 2}; {near(root, machine.folder / 'float32', 0.05)}"


def zero(machine: Machine, stage: int) -> str:
    if find_spec("deepspeed") is None:
        raise Skip("no package deepspeed")
    launch = {"device": machine.device, "strategy": f"zero{stage}", "processes": 1}
    root = machine.workspace(f"zero{stage}", {"launch": launch}, "float32")
    run(root, "sft", "grpo")
    return near(root, machine.folder / "float32", 0.05)


def qlora(machine: Machine) -> str:
    """Adapters on 4-bit weights, merged into whole ones."""
    if find_spec("bitsandbytes") is None:
        raise Skip("no package bitsandbytes")
    if machine.device == "cpu":
        raise Skip("4-bit kernels need CUDA")
    model = {"name_or_path": "models/base/tiny", "lora": LORA}
    root = machine.workspace("qlora", {"model": model, "sft": {"learning_rate": 1e-3}}, "float32")
    shutil.copytree(root / "models/sft", root / "models/base/tiny")
    run(root, "sft")
    return f"sft loss {loss(root):.5g} from {loss(machine.folder / 'float32'):.5g}"


def vllm(machine: Machine) -> str:
    """Completions of grpo from an engine in the training process."""
    if find_spec("vllm") is None:
        raise Skip("no package vllm")
    root = machine.workspace("vllm", {"grpo": {"use_vllm": True, "max_steps": 4, "warmup_steps": 1}}, "float32")
    run(root, "grpo")
    return f"4 steps in {seconds(root, 'grpo'):.0f} s"


def against_the_cpu(machine: Machine) -> str:
    """The published model on both devices, and the same training on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = machine.folder / "float32"
    rows = (source / "data/prepared/test.jsonl").read_text(encoding="utf-8").splitlines()[:PROBLEMS]
    tokenizer = AutoTokenizer.from_pretrained(source / "models/sft", padding_side="left")
    turns = [[{"role": "user", "content": json.loads(row)["problem"]}] for row in rows]
    texts = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    found = []
    for device in ("cpu", machine.device):
        model = AutoModelForCausalLM.from_pretrained(source / "models/sft", dtype=torch.float32).to(device).eval()
        inputs = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode():
            logits = model(**inputs).logits[:, -1].cpu()
            tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False).cpu()
        found.append((logits, tokenizer.batch_decode(tokens, skip_special_tokens=True)))
    (ours, here), (theirs, there) = found
    apart = float((ours - theirs).abs().max())
    equal = sum(a == b for a, b in zip(here, there, strict=True))
    assert apart < 1e-2, f"logits are up to {apart:.1e} apart"
    assert equal >= 0.9 * len(rows), f"{equal} of {len(rows)} greedy completions are equal"
    root = machine.workspace("cpu", {"launch": {"device": "cpu"}}, "float32")
    run(root, "sft")
    return f"{equal} of {len(rows)} greedy completions equal, logits {apart:.0e} apart; {near(root, source, 0.1)}"


CHECKS: dict[str, Callable[[Machine], str]] = {
    "float32": float32,
    "bfloat16": bfloat16,
    "again": again,
    "resume": resume,
    "zero2": lambda machine: zero(machine, 2),
    "zero3": lambda machine: zero(machine, 3),
    "qlora": qlora,
    "vllm": vllm,
    "cpu": against_the_cpu,
}


def outcome(check: Callable[[Machine], str], machine: Machine) -> tuple[str, str]:
    try:
        return "passed", check(machine)
    except Skip as lacking:
        return "skipped", str(lacking)
    except Exception as error:  # noqa: BLE001 - the other checks are run all the same
        return "FAILED", f"{type(error).__name__}: {error}"


def described(device: str) -> str:
    """The device and what computes on it. Raises: Skip without an NVIDIA GPU that torch can use."""
    import torch
    import transformers
    import trl

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"
    if device == "cpu":
        return f"CPU, {versions}"
    if not torch.cuda.is_available():
        raise Skip(f"torch {torch.__version__} sees no NVIDIA GPU")
    return f"{torch.cuda.get_device_name()}, {versions}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=300, help="of sft, a multiple of 6; of grpo a 25th")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    arguments = parser.parse_args()
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"test-gpu | {sys.executable} lacks {', '.join(missing)}", file=sys.stderr)
        return 2
    try:
        print(f"test-gpu | {described(arguments.device)}", flush=True)
    except Skip as lacking:
        print("\n".join(f"{name:9} | skipped | {lacking}" for name in arguments.only))
        return 0
    found = []
    with tempfile.TemporaryDirectory(prefix="posttrain-gpu-") as folder:
        machine = Machine(arguments.device, max(6, arguments.steps // 6 * 6), Path(folder))
        for name in CHECKS:
            if name in {"float32", *arguments.only}:
                began = time.monotonic()
                result, told = outcome(CHECKS[name], machine)
                found.append(result)
                print(f"{name:9} | {result:7} | {time.monotonic() - began:4.0f} s | {told}", flush=True)
                if name == "float32" and result == "FAILED":
                    break  # the others start from it
    return int("FAILED" in found)


if __name__ == "__main__":
    sys.exit(main())
