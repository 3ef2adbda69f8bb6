"""What two processes on a CPU hold and how fast they are, against one, and against ZeRO's arithmetic.

Run     python benchmarks/distributed.py memory      bytes of weights, gradients and optimizer states in each process
        python benchmarks/distributed.py scaling     seconds of a GRPO step of params.yaml, and where they go

memory   a Qwen2 of 25 million parameters, bfloat16 beside float32 master weights, as the strategies hold them right
         before an optimizer step; counted in the storages of the tensors, not in what the process takes
scaling  `posttrain grpo` on models/sft for a few steps, one thread a process, layouts taking turns
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from posttrain.launch.accelerate import accelerate_config, environment  # noqa: E402
from posttrain.launch.layout import Layout  # noqa: E402

MIB = 2**20
SHAPE = {"vocab_size": 2048, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8}
BYTES = {"weights": 2, "gradients": 2, "optimizer": 12}
SHARED_OUT = {"zero2": ("gradients", "optimizer"), "zero3": ("weights", "gradients", "optimizer")}
STEPS = 6


def layout(strategy: Any, processes: int) -> Layout:
    return Layout(strategy, "cpu", processes, 1, 0, "127.0.0.1:0", "bf16", "none", 1)


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def memory() -> None:
    print(f"{'strategy':9} {'processes':>9} {'what':10} {'MiB':>8} {'theory':>8} {'ratio':>6}")
    for strategy in ("zero2", "zero3"):
        for processes in (1, 2):
            for what, found, theory in measured(strategy, processes):
                cells = f"{found / MIB:8.1f} {theory / MIB:8.1f} {found / theory:6.2f}"
                print(f"{strategy:9} {processes:9} {what:10} {cells}", flush=True)


def measured(strategy: str, processes: int) -> list[tuple[str, float, float]]:
    """What, bytes of the process that has most, and the bytes that ZeRO's arithmetic gives."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "accelerate.json"
        config.write_text(json.dumps(accelerate_config(layout(strategy, processes))))
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        done = subprocess.run(
            [*launcher, __file__, "hold", str(folder)],
            env={**os.environ, **environment(layout(strategy, processes))},
            capture_output=True,
            text=True,
            timeout=600,
        )
        ranks = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
        assert len(ranks) == processes, done.stderr
    count = ranks[0]["parameters"]
    over = {what: processes if what in SHARED_OUT[strategy] else 1 for what in BYTES}
    return [(what, max(rank[what] for rank in ranks), size * count / over[what]) for what, size in BYTES.items()]


def hold(folder: Path) -> None:
    """In a worker: train three steps and count what is held before the last."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Count(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                engine = trainer.model_wrapped
                engine.step = partial(self.counted, args.process_index, engine.step)  # backward calls it

        def counted(self, rank: int, step: Any, *args: Any, **kwargs: Any) -> Any:
            (folder / f"rank-{rank}.json").write_text(json.dumps(held(trainer)))
            return step(*args, **kwargs)

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=1,
        use_cpu=True,
        bf16=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, **HEADS, tie_word_embeddings=True))
    row = {"input_ids": torch.arange(8), "labels": torch.arange(8)}
    trainer = Trainer(model, arguments, train_dataset=[row] * 16, callbacks=[Count()])
    trainer.train()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def held(trainer: Any) -> dict[str, int]:
    """Bytes of the storages behind the engine's weights, gradients and optimizer states."""
    engine, optimizer = trainer.model_wrapped, trainer.model_wrapped.optimizer
    values = list(engine.module.parameters())
    shared_out = hasattr(values[0], "ds_id")
    if shared_out:
        gradients = [optimizer.grad_partitions_flat_buffer]
        master = optimizer.fp32_partitioned_groups_flat
    else:
        gradients = [part for group in optimizer.averaged_gradients.values() for part in group if part is not None]
        master = optimizer.single_partition_of_fp32_groups
    moments = [value for state in optimizer.optimizer.state.values() for value in state.values()]
    return {
        "parameters": sum(getattr(value, "ds_numel", value.numel()) for value in values),
        "weights": size([value.ds_tensor if shared_out else value for value in values]),
        "gradients": size(gradients),
        "optimizer": size([*master, *moments]),
    }


def size(tensors: list[Any]) -> int:
    """Each storage once."""
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage() for value in tensors if hasattr(value, "numel")
    }
    return sum(storage.nbytes() for storage in storages.values())


# ---------------------------------------------------------------------------------------------------------------------
# Scaling


def scaling(rounds: int) -> None:
    """Medians over the steps after the first, of all rounds."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = workspace(Path(name))
        for _ in range(rounds):
            for processes, strategy in ((1, "single"), (2, "ddp"), (2, "zero2"), (2, "zero3")):
                found.setdefault(f"{strategy} {processes}", []).extend(steps(root, strategy, processes))
    one = statistics.median(row["seconds"] for row in found["single 1"])
    print(f"{'layout':9} {'s/step':>7} {'generate':>9} {'rewards':>8} {'update':>7} {'speed-up':>9} {'efficiency':>11}")
    for name, rows in found.items():
        median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        faster = one / median["seconds"]
        parts = f"{median['generate_s']:9.2f} {median['reward_s']:8.2f} {median['update_s']:7.2f}"
        print(f"{name:9} {median['seconds']:7.2f} {parts} {faster:9.2f} {faster / int(name[-1]):11.2f}")


def workspace(root: Path) -> Path:
    """params.yaml with few steps, and the stages before grpo as they are published here."""
    text = (ROOT / "params.yaml").read_text()
    steps = "grpo:\n  max_steps: 100"
    assert steps in text
    changed = text.replace(steps, f"grpo:\n  max_steps: {STEPS}").replace("  warmup_steps: 10\n", "  warmup_steps: 1\n")
    (root / "params.yaml").write_text(changed)
    (root / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    (root / "data").symlink_to(ROOT / "data")
    (root / "models").mkdir()
    (root / "models/sft").symlink_to(ROOT / "models/sft")
    return root


def steps(root: Path, strategy: str, processes: int) -> list[dict[str, float]]:
    variables = {"POSTTRAIN_LAUNCH_STRATEGY": strategy, "POSTTRAIN_LAUNCH_PROCESSES": str(processes)}
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "POSTTRAIN_LAUNCH_THREADS": "1"}
    command = [sys.executable, "-m", "posttrain", "grpo"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    head, _, *rows = (root / ".posttrain/runs/grpo-steps.tsv").read_text().splitlines()  # the first step warms up
    return [dict(zip(head.split("\t"), map(float, row.split("\t")), strict=True)) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "scaling", "hold"))
    parser.add_argument("folder", nargs="?", type=Path, help="of hold")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what == "memory":
        memory()
    elif arguments.what == "scaling":
        scaling(arguments.rounds)
    else:
        hold(arguments.folder)


if __name__ == "__main__":
    main()
