"""Did GRPO gain what params ask for?

Reads   results/evaluate/metrics.json
Run     posttrain gate
"""

import json

from posttrain import paths
from posttrain.errors import GateError, InputError


def check_gate() -> None:
    """Say whether GRPO gained what params asked for, from results/evaluate/metrics.json.

    Raises: GateError if not, InputError if there is nothing to judge.
    """
    path = paths.EVALUATE_RESULTS / "metrics.json"
    if not path.is_file():
        raise InputError(
            str(path), got="no such file", wanted="the output of `posttrain evaluate`", do="run `dvc repro` first"
        )
    metrics = json.loads(path.read_text(encoding="utf-8"))
    gain, gate = metrics["gain"], metrics["gate"]
    claim = f"{metrics['verdict']}, pass@1 {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    if gate["min_gain"] is None:
        print(f"gate | off (evaluate.gate.min_gain is null) | {claim}")
    elif gate["passed"]:
        print(f"gate | held: {claim}, at least {gate['min_gain']:+g} asked for")
    else:
        raise GateError(
            f"The gate did not hold: {claim}; evaluate.gate.min_gain asks for {gate['min_gain']:+g} and an interval "
            "above 0.\nLook at results/report.html: the curves say whether GRPO learned, the samples what it learned."
        )
