"""What stages need of the machine besides memory and time: folders to write to, room in them, lighteval."""

import shutil
from pathlib import Path
from typing import Literal

from posttrain.commands.check.rules import Finding
from posttrain.commands.check.workspace import Workspace
from posttrain.commands.plan.model import from_config
from posttrain.evaluation.lighteval_process import lighteval_python
from posttrain.outputs.checkpoints import KEEP
from posttrain.outputs.disk import mounted, nearest, readable, unwritable
from posttrain.outputs.facts import OUTS
from posttrain.paths import CHECKPOINTS, GRPO_RESULTS, OUTPUTS, REPORT, REPORT_FILES, SFT_RESULTS, UNPUBLISHED

LEAST = 16 * 2**20
"""Bytes that results, logs and manifests take."""
TARGETS = (*OUTS.values(), SFT_RESULTS, GRPO_RESULTS, REPORT_FILES, REPORT)
STATE = 2 * 4
"""Bytes that a checkpoint holds of a parameter besides the weight: Adam's moments in float32."""


def check_outputs(work: Workspace) -> list[Finding]:
    """Folders that stages write to, by writing to them; a link counts as the place that it points to."""
    places = dict.fromkeys(nearest(folder) for folder in (*OUTPUTS, UNPUBLISHED.parent))
    closed = [f"{place}: {said}" for place in places if (said := unwritable(place)) is not None]
    if closed:
        why, do = "Outputs are published by renames in there.", "Mend the rights, make room, or link it elsewhere."
        return [Finding("fault", "outputs", ", ".join(closed), "cannot be written", why, do)]
    if points := [str(target) for target in TARGETS if mounted(target)]:
        why, do = "A stage puts its output there by one rename.", "Mount the folder above it, or link into the mount."
        return [Finding("fault", "outputs", ", ".join(points), "a mount point", why, do)]
    return [Finding("ok", "outputs", ", ".join(map(str, OUTPUTS)), "can be written")]


def check_disk(stage: Literal["sft", "grpo"], work: Workspace) -> list[Finding]:
    model = from_config(work.config(stage), work.params.model.name_or_path)
    parameters = model.parameters if model is not None else 0
    weights = parameters * {"float32": 4, "bfloat16": 2}[work.params.model.dtype]
    trained = work.params.model.lora is None
    checkpoint = weights + STATE * parameters if trained else LEAST
    models, kept = nearest(Path("models")), nearest(CHECKPOINTS)
    together = models.stat().st_dev == kept.stat().st_dev
    found = [room(f"room for the model of {stage}", models, weights, weights + (KEEP + 1) * checkpoint * together)]
    if not together:
        found.append(room(f"room for checkpoints of {stage}", kept, checkpoint, (KEEP + 1) * checkpoint))
    return found


def room(name: str, folder: Path, least: int, wanted: int) -> Finding:
    """`least` without which nothing is published, `wanted` with which nothing has to be cleared away on the way."""
    free = shutil.disk_usage(folder).free
    saw = f"{readable(free)} free, {readable(least + LEAST)} needed, {readable(wanted + LEAST)} with checkpoints"
    if free < least + LEAST:
        why, do = "The stage would train and then have no room for its result.", "Make room, or link it elsewhere."
        return Finding("fault", name, str(folder), saw, why, do)
    if free < wanted + LEAST:
        why = "Training ends at a checkpoint that has no room."
        return Finding("warn", name, str(folder), saw, why, "Make room, or raise launch.checkpoint_every_s.")
    return Finding("ok", name, str(folder), saw)


def check_lighteval(work: Workspace) -> list[Finding]:
    """Raises: InputError without an environment that has lighteval"""
    return [Finding("ok", "lighteval", str(lighteval_python().parents[1]), "can be run")]
