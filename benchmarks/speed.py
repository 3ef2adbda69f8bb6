"""posttrain beside stock TRL on this machine: seconds a step by phase, ratio with spread, memory, fixed cost, growth.

Run     python benchmarks/speed.py            writes docs/data/speed.json
        python benchmarks/speed.py --smoke    a minute; every kind of run once, writes nothing
        python docs/speed.py                  table and chart of docs/speed.md from docs/data/speed.json

Runs take turns, so that what else the machine does falls on all of them. The first step of each run warms up and is
left out. The limit is that of the same minute: FLOPs of the model's passes by the speed of a product of two matrices.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from speed_runs import ADOPTED, ROOT, Row, measure, posttrain, workspace

sys.path.insert(0, str(ROOT))
from posttrain.commands.check.speed import numpy_tflops
from posttrain.launch.layout import cores

OUT = ROOT / "docs/data/speed.json"
GRPO = {"grpo.warmup_steps": 1, "grpo.health": {"window": 2}}
SFT = {"sft.warmup_steps": 1, "sft.logging_steps": 1}
SMOLLM2 = {**ADOPTED, "grpo.prompts_per_step": 1}
SMOLLM2 |= {"grpo.num_generations": 8, "grpo.max_completion_length": 56, "launch.micro_batch_size": 8}
BF16 = {"launch.mixed_precision": "bf16", "grpo.generation_dtype": "bfloat16"}
CONTENDERS = (("stock", 1), ("posttrain", 1), ("stock", 2), ("posttrain", 2))
IN_BF16 = ("posttrain bf16", 1)
"""Beside stock TRL in float32."""
GROWTH: dict[str, dict[str, Any]] = {
    "64 completions": {"grpo.prompts_per_step": 4},
    "256 completions": {"grpo.prompts_per_step": 16},
    "40 tokens": {"grpo.max_completion_length": 40},
}
"""Beside the embedded recipe's 128 completions of 80 tokens at most."""
PARAMETERS = {"embedded": 180_864, "smollm2": 134_515_008}
PASSES = {"grpo": 5, "sft": 3}
"""Forward passes that a step is worth: rollout, reference, forward, and two for backward."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="every kind of run once, in a minute")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = smoke(Path(name)) if arguments.smoke else whole(Path(name), arguments.repeat)
    for line in table(found):
        print(line)
    if not arguments.smoke:
        OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {OUT.relative_to(ROOT)} | next: python docs/speed.py")


def whole(folder: Path, repeat: int) -> dict[str, Any]:
    embedded, smollm2 = workspace(folder / "embedded", "embedded"), workspace(folder / "smollm2", "smollm2")
    contenders = CONTENDERS if cores() > 1 else CONTENDERS[:2]
    grpo, sft = {**GRPO, "grpo.max_steps": 4}, {**SFT, "sft.max_steps": 10}
    found: dict[str, Any] = {
        "machine": machine(),
        "gflops": {str(n): 1e3 * numpy_tflops(n) for n in (1, 2)},
        "runs": [],
    }
    take_turns(found, embedded, "grpo", "embedded", contenders, grpo, repeat)
    take_turns(found, embedded, "sft", "embedded", CONTENDERS[:2], sft, min(repeat, 2))
    large = {**GRPO, **SMOLLM2, "grpo.max_steps": 2}
    take_turns(found, smollm2, "grpo", "smollm2", (*CONTENDERS[:2], IN_BF16), large, min(repeat, 2))
    for label, changes in GROWTH.items():
        take_turns(found, embedded, "grpo", label, CONTENDERS[1:2], {**grpo, "grpo.max_steps": 3, **changes}, 1)
    found["check"] = [posttrain(embedded, "check") for _ in range(repeat)]
    return found


def smoke(folder: Path) -> dict[str, Any]:
    """Nobody reads the times, so two runs go at once."""
    one = workspace(folder / "embedded", "embedded")
    other = shutil.copytree(one, folder / "other", symlinks=True)
    grpo = {**GRPO, "grpo.max_steps": 2, "grpo.prompts_per_step": 2, "grpo.max_completion_length": 24}
    sft = {**SFT, "sft.max_steps": 2}
    found: dict[str, Any] = {"machine": machine(), "gflops": {"1": 1e3 * numpy_tflops(1)}, "runs": []}

    def both(root: Path, of_grpo: tuple[tuple[str, int], ...], of_sft: tuple[tuple[str, int], ...]) -> None:
        take_turns(found, root, "grpo", "embedded", of_grpo, grpo, 1)
        take_turns(found, root, "sft", "embedded", of_sft, sft, 1)

    with ThreadPoolExecutor(2) as threads:
        runs = [
            threads.submit(both, one, (CONTENDERS[0], CONTENDERS[3]), CONTENDERS[:1]),
            threads.submit(both, other, (CONTENDERS[1], IN_BF16), CONTENDERS[1:2]),
        ]
        for run in runs:
            run.result()
    return found


def take_turns(
    found: dict[str, Any],
    root: Path,
    stage: str,
    label: str,
    contenders: tuple[tuple[str, int], ...],
    changes: dict[str, Any],
    repeat: int,
) -> None:
    for _ in range(repeat):
        for who, count in contenders:
            own = BF16 if who == IN_BF16[0] else {}
            rows, fixed_s = measure(root, stage, who, count, {**changes, **own})
            run = {"stage": stage, "label": label, "who": who, "cores": count, "fixed_s": fixed_s, "steps": rows[1:]}
            found["runs"].append(run)
            print(f"{label} {stage} {who} {count}: {median(rows[1:], 'step'):.3f} s/step", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {"processor": name, "cores": cores(), "load": os.getloadavg()[0], "python": platform.python_version()}


def median(rows: list[Row], name: str) -> float:
    return statistics.median(row.get(name, 0.0) for row in rows)


def table(found: dict[str, Any]) -> list[str]:
    """A line for each contender, the median of its runs' medians; the ratio to stock on as many cores, of each turn."""
    heads = ("generate", "reward", "reference", "forward", "backward", "step")
    lines = [f"{'':34}" + "".join(f"{head:>10}" for head in heads) + "  tokens/s     MiB   fixed  ratio (min-max)"]
    for key in dict.fromkeys((run["label"], run["stage"], run["who"], run["cores"]) for run in found["runs"]):
        runs = [run for run in found["runs"] if (run["label"], run["stage"], run["who"], run["cores"]) == key]
        cells = [statistics.median(median(run["steps"], head) for run in runs) for head in heads]
        step = cells[-1]
        tokens = statistics.median(median(run["steps"], "tokens") for run in runs)
        memory = max(row["rss_mib"] for run in runs for row in run["steps"])
        fixed = statistics.median(run["fixed_s"] for run in runs)
        line = f"{key[0]} {key[1]}, {key[2]}, {key[3]} core{'s' * (key[3] > 1)}"
        line = f"{line:34}" + "".join(f"{cell:10.3f}" for cell in cells)
        line += f"{tokens / step:10.0f}{memory:8.0f}{fixed:8.1f}  {ratio(found, key)}"
        lines.append(line + share_of_limit(found, key, tokens, step))
    return [*lines, *(f"posttrain check: {seconds:.1f} s" for seconds in found.get("check", []))]


def ratio(found: dict[str, Any], key: tuple[str, str, str, int]) -> str:
    def steps(who: str) -> list[float]:
        of = (key[0], key[1], who, key[3])
        runs = [run for run in found["runs"] if (run["label"], run["stage"], run["who"], run["cores"]) == of]
        return [median(run["steps"], "step") for run in runs]

    ratios = sorted(a / b for a, b in zip(steps("stock"), steps(key[2]), strict=False))
    if key[2] == "stock" or not ratios:
        return ""
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def share_of_limit(found: dict[str, Any], key: tuple[str, str, str, int], tokens: float, step: float) -> str:
    """Of the products of weights alone in float32, every position computed once in each pass."""
    if key[0] not in PARAMETERS or str(key[3]) not in found["gflops"] or key[2] == IN_BF16[0]:
        return ""
    flops = 2 * PARAMETERS[key[0]] * tokens * PASSES[key[1]]
    return f"  {flops / (found['gflops'][str(key[3])] * 1e9) / step:.0%} of the limit"


if __name__ == "__main__":
    main()
