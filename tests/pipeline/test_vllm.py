"""`posttrain evaluate` through a server: lighteval judges the same completions as with transformers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from posttrain.outputs.manifest import MANIFEST, file_hashes, sha256, write_json
from posttrain.params.recipes import overlaid
from tests.pipeline.conftest import POSTTRAIN, ROOT, Run, runner
from tests.unit.test_vllm import free_port

GREEDY = {"evaluate.num_samples": 1, "evaluate.temperature": 0.0}
RESULTS = Path("results/evaluate")


def write_params(folder: Path, use_vllm: bool) -> None:
    """Greedy evaluation, from a server or from transformers, which no sampler's draws differ in."""
    python = folder / "stand-in"
    server = ROOT / "tests/unit/vllm_server.py"
    python.write_text(f'#!/bin/sh\nSTAND_IN=\'{{"transformers": true}}\' exec "{sys.executable}" "{server}" "$@"\n')
    python.chmod(0o755)
    vllm = {"python": str(python), "gpus": [], "server_port": free_port(), "server_timeout": 120}
    params = folder / "params.yaml"
    changes = {**GREEDY, "evaluate.use_vllm": use_vllm, "launch.vllm": vllm}
    params.write_text(overlaid(None, changes, params.read_text()))


def scatter_weights(model: Path, seed: int) -> None:
    """A model that writes other tokens for other prompts, which three steps of training do not make."""
    file = model / "model.safetensors"
    noise = torch.Generator().manual_seed(seed)
    weights = {name: value + torch.randn(value.shape, generator=noise) for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    manifest = json.loads((model / MANIFEST).read_text())
    parents = {parent: sha256(model.parents[1] / parent / MANIFEST) for parent in manifest["parents"]}
    write_json(model / MANIFEST, {**manifest, "parents": parents, "files": file_hashes(model)})


def test_a_server_gives_what_transformers_gives(
    clone: Path, repro: "subprocess.CompletedProcess[str]", tmp_path: Path
) -> None:
    assert repro.returncode == 0, repro.stderr
    folder = tmp_path / "copy"
    shutil.copytree(clone, folder, symlinks=True, ignore=shutil.ignore_patterns(".dvc", "unpublished"))
    for seed, model in enumerate(("sft", "grpo")):
        scatter_weights(folder / "models" / model, seed)
    found = {use_vllm: evaluated(runner(folder), folder, use_vllm) for use_vllm in (False, True)}
    samples, metrics, manifest = zip(*found.values(), strict=True)
    assert samples[0] == samples[1]
    rows = [json.loads(line) for line in samples[0].splitlines()]
    assert len({row[model]["completions"][0] for row in rows for model in ("sft", "grpo")}) > 4
    assert metrics[0] == metrics[1]
    assert manifest[1]["lighteval"] == {**manifest[0]["lighteval"], "vllm": "0.30.0"}
    asked = [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]
    assert [request["argv"]["model"] for request in asked if "argv" in request] == ["models/sft", "models/grpo"]


def evaluated(run: Run, folder: Path, use_vllm: bool) -> tuple[str, str, dict[str, dict[str, str]]]:
    """Samples, metrics and manifest of `posttrain evaluate`."""
    write_params(folder, use_vllm)
    done = run(*POSTTRAIN, "evaluate")
    assert done.returncode == 0, done.stderr
    texts = [(folder / RESULTS / name).read_text() for name in ("samples.jsonl", "metrics.json", "manifest.json")]
    return texts[0], texts[1], json.loads(texts[2])
