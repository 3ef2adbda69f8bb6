"""`grpo.health`: the thresholds of the health monitor and what follows a finding, each with a default.

A file of its own because grpo depends on it in dvc.yaml: DVC compares what params.yaml says, so it sees a default that
changes only here.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.params.section import Section


class Rule(Section):
    action: Literal["warn", "stop", "rollback", "off"]
    """Reaction to a finding. `rollback` goes back to weights from before the sickness and halves the learning rate;
    `stop` ends the training early and publishes what there is."""


class NotFinite(Section):
    action: Literal["stop", "rollback"]
    """Reaction to lost numbers, which no model is published with. `stop` ends the run with exit code 2 and publishes
    nothing; `rollback` goes back to sound weights and halves the learning rate."""


class Above(Rule):
    above: float = Field(gt=0)
    """Mean over `window` rows above which the rule speaks."""


class Below(Rule):
    below: float = Field(gt=0)
    """Mean over `window` rows under which the rule speaks."""


class BelowFrac(Rule):
    below_frac: float = Field(gt=0, lt=1)
    """Share of an earlier mean under which the rule speaks."""


class ConstantReward(Rule):
    zero_std_frac: float = Field(gt=0, le=1)
    """Share of groups without any difference in reward from which nothing is left to learn."""


class FlatAccuracy(Rule):
    format_above: float = Field(gt=0, le=1)
    """Format reward from which on the form counts as learnt."""
    accuracy_below: float = Field(gt=0, le=1)
    """Accuracy under which there is more to learn."""
    gain: float = Field(gt=0)
    """Smallest gain in accuracy over `rows` rows that is not flat."""
    rows: int = Field(ge=1)
    """Rows of the curve over which accuracy has to gain."""


class Truncation(Rule):
    above: float = Field(gt=0, le=1)
    """Share of completions cut off at `max_completion_length` that is too high whatever came before."""
    growth: float = Field(gt=0, le=1)
    """Rise of that share since the first `window` rows that is too much while completions grow longer."""


class ProbeFalls(Rule):
    drop: float = Field(gt=0, le=1)
    """Fall of `probe/accuracy` below its best that is too much."""


class Mismatch(Rule):
    logp_difference_above: float = Field(gt=0)
    """Mean distance between trainer and vLLM in the log-probability of a token that is too high."""
    ratio_below: float = Field(gt=0, lt=1)
    """Mean importance ratio that leaves too little of a step to learn from."""


class Health(Section):
    """Thresholds of the health monitor, for unscaled advantages of rewards within [0, 1]; docs/health.md."""

    window: int = Field(default=10, ge=2)
    """Rows of the curve that a rule averages; no rule but `not_finite` speaks before that many."""
    solved_accuracy: float = Field(default=0.9, gt=0, le=1)
    """Training accuracy from which on equal rewards and a settled policy are success."""
    max_rollbacks: int = Field(default=2, ge=1)
    """Rollbacks after which the next finding stops the run."""
    not_finite: NotFinite = NotFinite(action="stop")
    """Loss, gradient norm, KL divergence, entropy, advantage/std, weight or log-probability that is no finite number,
    at once."""
    exploding_gradients: Above = Above(action="warn", above=10.0)
    """Gradient norm that is too high."""
    kl_divergence: Above = Above(action="warn", above=0.05)
    """KL divergence to the SFT model, policy/kl_divergence, that is too high; the tutorial's threshold."""
    low_advantage_std: Below = Below(action="warn", below=0.1)
    """Spread of the advantages, advantage/std, that is too small; the tutorial's threshold."""
    high_advantage_std: Above = Above(action="warn", above=0.6)
    """Spread of the advantages that is too large, with `scale_rewards: none`; the tutorial's threshold."""
    constant_reward: ConstantReward = ConstantReward(action="warn", zero_std_frac=0.99)
    """Groups without any difference in reward, or accuracy 0 throughout."""
    reward_collapse: BelowFrac = BelowFrac(action="warn", below_frac=0.5)
    """Total reward that fell below a share of its best."""
    flat_accuracy: FlatAccuracy = FlatAccuracy(action="warn", format_above=0.95, accuracy_below=0.7, gain=0.02, rows=50)
    """Accuracy that stands still while the form is learnt."""
    entropy_collapse: BelowFrac = BelowFrac(action="warn", below_frac=0.1)
    """Entropy that fell below a share of what it was in the first `window` rows."""
    truncation: Truncation = Truncation(action="warn", above=0.5, growth=0.2)
    """Completions that are cut off."""
    probe_falls: ProbeFalls = ProbeFalls(action="warn", drop=0.15)
    """Probe that got worse, at two probes in a row, while the reward did not fall."""
    verifier_timeouts: Above = Above(action="warn", above=0.05)
    """Share of a step's completions on which the verifier reached no verdict."""
    mismatch: Mismatch = Mismatch(action="warn", logp_difference_above=0.1, ratio_below=0.5)
    """Trainer and vLLM that give the same tokens other probabilities; seen only with `use_vllm`."""

    @model_validator(mode="before")
    @classmethod
    def rules_are_completed(cls, data: Any) -> Any:
        """A rule that is written in part keeps the rest of its default."""
        if not isinstance(data, dict):
            return data
        rules = {
            name: field.default
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Rule | NotFinite)
        }
        written = {name: data[name] for name in rules if isinstance(data.get(name), dict)}
        return {**data, **{name: {**rules[name].model_dump(), **written[name]} for name in written}}
