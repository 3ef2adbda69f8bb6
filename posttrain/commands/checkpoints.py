"""`posttrain checkpoints`: what killed runs of sft and grpo go on from, and which params it belongs to.

Reads   .posttrain/checkpoints/
"""

import time
from pathlib import Path
from typing import Any

from posttrain.outputs.checkpoints import read_manifest, step_of, steps
from posttrain.outputs.disk import readable
from posttrain.outputs.facts import Origin, differences
from posttrain.outputs.manifest import MANIFEST
from posttrain.params.schema import Params
from posttrain.paths import CHECKPOINTS


def show(params: Params) -> None:
    """A line for each checkpoint: stage, fingerprint, step, size, age, and what tells it from the present params."""
    found = [step for stage in sorted(CHECKPOINTS.glob("*")) for run in sorted(stage.glob("*")) for step in steps(run)]
    if not found:
        print("checkpoints | none: the stages that were started have published, or wrote none yet")
        return
    present = {path.parts[-3]: Origin(path.parts[-3], params).facts for path in found}
    print(f"{'stage':6} {'fingerprint':16} {'step':>7} {'size':>10} {'age':>8}  belongs to")
    for path in found:
        stage, run, _ = path.parts[-3:]
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        owner = belongs(path, present[stage])
        print(f"{stage:6} {run:16} {step_of(path):7} {readable(size):>10} {age(path):>8}  {owner}")


def belongs(path: Path, present: dict[str, Any]) -> str:
    manifest = read_manifest(path)
    if manifest is None:
        return f"nothing: it has no readable {MANIFEST}"
    other = differences(manifest["facts"], present)
    return f"others: {'; '.join(other)}" if other else "the present params, inputs and code"


def age(path: Path) -> str:
    seconds = max(0.0, time.time() - (path / MANIFEST).stat().st_mtime) if (path / MANIFEST).exists() else 0.0
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"
