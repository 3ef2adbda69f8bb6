"""Did GRPO gain what params ask for?

Reads   params.yaml, results/evaluate/, the manifests and files that it was made from
Run     posttrain gate
"""

from collections.abc import Mapping
from typing import Any

from posttrain import paths
from posttrain.errors import GateError, InputError
from posttrain.evaluation.statistics import Interval, Verdict
from posttrain.graph import how_to_restore
from posttrain.outputs.facts import Origin, differences
from posttrain.outputs.json_files import read_object
from posttrain.outputs.manifest import MANIFEST
from posttrain.outputs.parents import require_out
from posttrain.params.schema import Params

CLEAN_LOSS = 0.05
"""Loss in pass@1 on problems that training has not seen which the gate has to be able to rule out."""

PARENTS = {"prepare": paths.PREPARED, "sft": paths.SFT_MODEL, "grpo": paths.GRPO_MODEL}


def passes(gain: Interval, verdict: Verdict, min_gain: float | None) -> bool:
    """Whether a gain is what was asked for: at least so much, and told from chance.

    A negative `min_gain` asks that nothing was lost: the whole interval is above it (non-inferiority).
    """
    if min_gain is None:
        return True
    if verdict == "too few problems":
        return False
    if min_gain < 0:
        return gain.low >= min_gain
    return gain.mean >= min_gain - 1e-9 and verdict == "improved"


def check_gate(params: Params) -> None:
    """Say whether GRPO gained what params ask for, by an evaluation of these params and of the models that are there.

    Raises: GateError if it did not, InputError if there is nothing to judge, or something changed since.
    """
    require_current(require_out(paths.EVALUATE_RESULTS, "evaluate"), params)
    path = paths.EVALUATE_RESULTS / "metrics.json"
    metrics = read_object(path, how_to_restore("evaluate", path))
    gain = Interval(*(metrics["gain"][key] for key in ("mean", "low", "high")))
    minimum = params.evaluate.gate.min_gain
    clean = metrics.get("clean_gain", ALL_CLEAN)
    claim = f"{metrics['verdict']}, pass@1 {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    if minimum is None:
        print(f"gate | off (evaluate.gate.min_gain is null) | {claim}")
    elif not holds_on_clean(clean, minimum):
        raise GateError(
            f"The gate did not hold on the problems that training has not seen: {told_clean(clean)}; "
            f"{asked(min(minimum, -CLEAN_LOSS))}."
        )
    elif passes(gain, metrics["verdict"], minimum):
        print(f"gate | held: {claim}, {asked(minimum)}")
    else:
        raise GateError(
            f"The gate did not hold: {claim}; evaluate.gate.min_gain is {minimum:+g}: {asked(minimum)}.\n"
            "Look at results/report.html: the curves say whether GRPO learned, the samples what it learned."
        )


ALL_CLEAN: dict[str, Any] = {}
"""In place of a gain on the clean part, where no problem is flagged."""


def holds_on_clean(clean: Mapping[str, Any] | None, min_gain: float) -> bool:
    """Non-inferiority on the problems that training has not seen; `clean` is None where there are none of them."""
    if clean is None:
        return False
    if not clean:
        return True
    gain = Interval(*(clean[key] for key in ("mean", "low", "high")))
    return passes(gain, clean["verdict"], min(min_gain, -CLEAN_LOSS))


def told_clean(clean: Mapping[str, Any] | None) -> str:
    if clean is None:
        return "there is none"
    return f"{clean['verdict']}, pass@1 {clean['mean']:+.3f} [{clean['low']:+.3f}, {clean['high']:+.3f}]"


def asked(min_gain: float) -> str:
    if min_gain < 0:
        return f"an interval above {min_gain:+g} asked for"
    return f"at least {min_gain:+g} and an interval above 0 asked for"


def require_current(manifest: dict[str, Any], params: Params) -> None:
    """Refuse results of other params, data or models than those that are here. What the gate asks may change.

    Raises: InputError
    """
    for stage, folder in PARENTS.items():
        require_out(folder, stage)
    now = Origin("evaluate", params).record
    changed = differences(*(facts(record) for record in (manifest, now)))
    if changed:
        raise InputError(
            str(paths.EVALUATE_RESULTS / MANIFEST),
            got=f"results of something else: {'; '.join(changed[:5])}",
            wanted="an evaluation of the present params, data and models",
            do="run `dvc repro`",
        )


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What results are of, the gate left out."""
    params = dict(record.get("params") or {})
    params["evaluate"] = {key: value for key, value in (params.get("evaluate") or {}).items() if key != "gate"}
    return {"params": params, "parents": record.get("parents") or {}, "inputs": record.get("inputs") or {}}
