"""The columns of GRPO's curve, and their means for metrics.json."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from posttrain.grpo.dynamic import REPLACED, ROUNDS, SAMPLED, totals, without_spread
from posttrain.grpo.health import DIFFERENCE, EQUAL, GENERATED, KL, PROBE, RATIO, TIMEOUTS
from posttrain.training.curve import Curve
from posttrain.training.trl import GenerationBatch

MISMATCH = (
    *(DIFFERENCE, "sampling/sampling_logp_difference/max"),
    *("sampling/importance_sampling_ratio/min", RATIO, "sampling/importance_sampling_ratio/max"),
)
"""How far vLLM and the trainer are apart; logged where vLLM generates and TRL corrects for it."""

ALWAYS_SHOWN = ("reward/total", "advantage/mean", "advantage/std", "policy/kl_divergence")


MEASURES = {
    "reward": "reward/total",
    "advantage/mean": "advantage/mean",
    "advantage/std": "advantage/std",
    "kl": "policy/kl_divergence",
    "entropy": "policy/entropy",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "clip_ratio/region_mean": "policy/clip_frac",
    EQUAL: EQUAL,
    TIMEOUTS: TIMEOUTS,
    "completions/mean_length": "completions/mean_length",
    "completions/clipped_ratio": "completions/truncated_frac",
    PROBE: PROBE,
    **{name: name for name in (ROUNDS, REPLACED, GENERATED, SAMPLED.format("total"), *MISMATCH)},
}
"""What TRL logs, and the name that a person sees."""


class GRPOCurve(Curve):
    """A column for each reward, and the advantages, which TRL keeps but does not log as metrics.

    `last_batch` gives what the last step trained on.
    """

    def __init__(self, rewards: Iterable[str], last_batch: Callable[[], GenerationBatch]) -> None:
        self.last_batch = last_batch
        names = {f"rewards/{name}/mean": f"reward/{name}" for name in rewards}
        sampled = {f"sampling/{name}": f"sampling/{name}" for name in names.values()}
        shown = (*names.values(), *ALWAYS_SHOWN, PROBE, SAMPLED.format("accuracy"), GENERATED, DIFFERENCE, RATIO)
        super().__init__("grpo", {**names, **MEASURES, **sampled}, shown)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None and "reward" in logs:
            batch = self.last_batch()
            advantages = batch.advantages
            logs["advantage/mean"] = round(statistics.fmean(advantages), 6) + 0.0  # 0 by construction, so never -0
            logs["advantage/std"] = statistics.pstdev(advantages)
            logs[EQUAL] = equal_groups_frac(batch)
        super().on_log(args, state, control, logs=logs, **kwargs)


def equal_groups_frac(batch: GenerationBatch) -> float:
    """Share of the groups whose completions all got the same total.

    TRL's own `frac_reward_zero_std` compares a float32 deviation with 1e-8 and misses most: where all earn 0.15, the
    mean is rounded, and no deviation from it is 0.
    """
    rewards = torch.tensor(list(batch.rewards.values())).T
    groups = len(rewards) // batch.group_size
    scores = totals(rewards, batch.weights).unsqueeze(1)
    return len(without_spread(scores, batch.group_size)) / groups


def summary(curve: Curve) -> dict[str, float]:
    """Means over the first and the last tenth of the run; the KL divergence over the last half, if beta measures it."""
    rewards = [name for name in curve.shown if name.startswith(("reward/", "sampling/reward/"))]
    first = {f"{name}_first": curve.mean(name, 0, 0.1) for name in rewards}
    last = {name: curve.mean(name, 0.9, 1) for name in curve.shown}
    means = {**first, **last, "policy/kl_divergence": curve.mean("policy/kl_divergence", 0.5, 1)}
    means |= {name: curve.mean(name, 0, 1) for name in (TIMEOUTS, ROUNDS, REPLACED, GENERATED)}
    return {name: value for name, value in means.items() if value is not None}


def key_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """What DVC shows beside those of evaluate; nothing if beta measures no divergence."""
    return {"kl": round(metrics[KL], 4)} if KL in metrics else {}
