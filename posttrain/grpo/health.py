"""What a healthy GRPO curve looks like: rules over its rows, each finding said once.

Pure: rows in, findings out. Imports no torch, so `posttrain check` can read the same rules; watch.py feeds it while the
model trains and acts on what it finds.

A rule looks at means over `window` rows, because one step of a few prompts is noise. What looks sick but is success is
left alone: once the problems are solved all rewards of a group are equal, and the advantage has nothing to tell apart.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from posttrain.params.health import Health
from posttrain.params.schema import Params

Row = Mapping[str, float]
"""A row of results/grpo/curve.tsv, under the names there; a column that was not logged is missing."""

ACCURACY, FORMAT, TOTAL = "reward/accuracy", "reward/format", "reward/total"
STD, KL, ENTROPY, GRAD_NORM = "advantage/std", "policy/kl_divergence", "policy/entropy", "grad_norm"
EQUAL, LENGTH, CUT = "reward/zero_std_frac", "completions/mean_length", "completions/truncated_frac"
PROBE, TIMEOUTS = "probe/accuracy", "reward/verifier_timeouts"
SAMPLING, GENERATED = "sampling/", "sampling/generated"
DIFFERENCE, RATIO = "sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean"
MUST_BE_FINITE = ("loss", GRAD_NORM, KL, ENTROPY, STD)
LOST = "lost/"
"""Before the name of something else in a row that is no finite number, such as a weight."""


@dataclass(frozen=True)
class Finding:
    rule: str
    action: str
    """What params ask for: warn, stop or rollback."""
    step: int
    saw: str
    why: str
    do: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.saw}. {self.why} {self.do}"


@dataclass
class History:
    """What the rules look back on. Plain data, so a resumed run goes on where the other one ended."""

    first: list[dict[str, float]] = field(default_factory=list)
    """The first `window` rows of the run."""
    recent: list[dict[str, float]] = field(default_factory=list)
    """The last rows, as many as any rule needs."""
    best_total: float = -math.inf
    """The highest mean of reward/total over a window."""
    best_probe: float = -math.inf
    total_at_best_probe: float = 0.0
    probes_below: int = 0
    """Probes in a row that were below the best by more than the drop."""


@dataclass(frozen=True)
class View:
    """What one rule sees at one row."""

    health: Health
    row: Row
    first: list[dict[str, float]]
    earlier: list[dict[str, float]]
    """A window `flat_accuracy.rows` rows ago; empty before there is one."""
    window: list[dict[str, float]]
    history: History
    weights: Mapping[str, float]
    completions: int
    """Completions of one step."""
    scaled: bool
    """TRL divides the advantages by a deviation, so their own says nothing."""

    def now(self, name: str) -> float:
        return mean(self.window, name)

    def start(self, name: str) -> float:
        return mean(self.first, name)

    @property
    def solved(self) -> bool:
        return self.now(ACCURACY) >= self.health.solved_accuracy


def mean(rows: list[dict[str, float]], name: str) -> float:
    """Mean over the rows that have the column; nan if none has, and no comparison with nan holds."""
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else math.nan


# ---------------------------------------------------------------------------------------------------------------------
# The rules: what one saw, or None


def not_finite(view: View) -> str | None:
    lost = [name for name in view.row if name.startswith(LOST)]
    bad = [name for name in (*MUST_BE_FINITE, *lost) if not math.isfinite(view.row.get(name, 0.0))]
    bad = [name.removeprefix(LOST) for name in bad]
    return f"{', '.join(bad)} {'is' if len(bad) == 1 else 'are'} no finite number" if bad else None


def exploding_gradients(view: View) -> str | None:
    limit = view.health.exploding_gradients.above
    return f"grad_norm {view.now(GRAD_NORM):.3g}, over {limit:g}" if view.now(GRAD_NORM) > limit else None


def kl_divergence(view: View) -> str | None:
    limit = view.health.kl_divergence.above
    return f"{KL} {view.now(KL):.3g}, over {limit:g}" if view.now(KL) > limit else None


def low_advantage_std(view: View) -> str | None:
    limit = view.health.low_advantage_std.below
    if not view.now(STD) < limit or view.solved:
        return None
    return f"{STD} {view.now(STD):.3g}, under {limit:g}, at {ACCURACY} {view.now(ACCURACY):.3g}"


def high_advantage_std(view: View) -> str | None:
    limit = view.health.high_advantage_std.above
    if view.scaled or not view.now(STD) > limit:
        return None
    return f"{STD} {view.now(STD):.3g}, over {limit:g}"


def constant_reward(view: View) -> str | None:
    if view.solved:
        return None
    if view.now(ACCURACY) == 0:
        return f"{ACCURACY} 0 in every one of {len(view.window)} rows"
    equal = view.now(EQUAL)
    if equal >= view.health.constant_reward.zero_std_frac:
        return f"{equal:.0%} of the groups got one reward for all their completions, {TOTAL} {view.now(TOTAL):.3g}"
    return None


def reward_collapse(view: View) -> str | None:
    limit, best = view.health.reward_collapse.below_frac, view.history.best_total
    if not (best > 0 and view.now(TOTAL) < limit * best):
        return None
    return f"{TOTAL} fell to {view.now(TOTAL):.3g} from {best:.3g}"


def flat_accuracy(view: View) -> str | None:
    rule = view.health.flat_accuracy
    accuracy, before = view.now(ACCURACY), mean(view.earlier, ACCURACY)
    flat = accuracy - before < rule.gain and accuracy < rule.accuracy_below
    if not (flat and view.now(FORMAT) >= rule.format_above):
        return None
    own, others = view.weights.get("accuracy", 0), sum(abs(w) for n, w in view.weights.items() if n != "accuracy")
    saw = f"{ACCURACY} {accuracy:.3g}, {before:.3g} {rule.rows} rows ago, while {FORMAT} is {view.now(FORMAT):.3g}"
    rival = "the format weight is too high: " if others >= own else ""
    return f"{saw}; {rival}accuracy weighs {own:g}, all else {others:g}"


def entropy_collapse(view: View) -> str | None:
    limit, start = view.health.entropy_collapse.below_frac, view.start(ENTROPY)
    if view.solved or not view.now(ENTROPY) < limit * start:
        return None
    return f"{ENTROPY} {view.now(ENTROPY):.3g}, {start:.3g} at the start, at {ACCURACY} {view.now(ACCURACY):.3g}"


def truncation(view: View) -> str | None:
    rule, cut, start = view.health.truncation, view.now(CUT), view.start(CUT)
    lengths = f"{LENGTH} {view.start(LENGTH):.0f} at the start, {view.now(LENGTH):.0f} now"
    if cut - start > rule.growth and view.now(LENGTH) > view.start(LENGTH):
        return f"{cut:.0%} of the completions are cut off, {start:.0%} at the start; {lengths}"
    return f"{cut:.0%} of the completions are cut off; {lengths}" if cut > rule.above else None


def probe_falls(view: View) -> str | None:
    history = view.history
    if PROBE not in view.row or history.probes_below < 2 or not view.now(TOTAL) >= history.total_at_best_probe:
        return None
    return (
        f"{PROBE} {view.row[PROBE]:.3g}, {history.best_probe:.3g} at its best, while {TOTAL} went from "
        f"{history.total_at_best_probe:.3g} to {view.now(TOTAL):.3g}"
    )


def verifier_timeouts(view: View) -> str | None:
    count, limit, generated = view.now(TIMEOUTS), view.health.verifier_timeouts.above, view.now(GENERATED)
    completions = view.completions if math.isnan(generated) else generated
    if not count > limit * completions:
        return None
    return f"{count:.3g} of {completions:.4g} completions a step had no verdict, over {limit:.0%}"


def mismatch(view: View) -> str | None:
    rule, difference, ratio = view.health.mismatch, view.now(DIFFERENCE), view.now(RATIO)
    if difference > rule.logp_difference_above:
        return f"{DIFFERENCE} {difference:.3g}, over {rule.logp_difference_above:g}, at {RATIO} {ratio:.3g}"
    return f"{RATIO} {ratio:.3g}, under {rule.ratio_below:g}" if ratio < rule.ratio_below else None


def unselected(row: Row) -> Row:
    """The row with the rewards of all completions generated, where dynamic sampling chose those to train on.

    Groups kept for their spread have a mean near the middle however good or bad the policy is.
    """
    rewards = {name: value for name, value in row.items() if name.startswith(f"{SAMPLING}reward/")}
    return {**row, **{name.removeprefix(SAMPLING): value for name, value in rewards.items()}}


@dataclass(frozen=True)
class Entry:
    see: Callable[[View], str | None]
    why: str
    do: str
    said_by: str | None = None
    """Another rule that has said it all if it has spoken."""


RULES: dict[str, Entry] = {
    "not_finite": Entry(
        not_finite,
        "Weights updated with it are lost, and every later step is noise.",
        "Lower grpo.learning_rate or grpo.max_grad_norm, or train in float32.",
    ),
    "exploding_gradients": Entry(
        exploding_gradients,
        "Clipping keeps only their direction, which a few completions decide; the policy is about to jump.",
        "Lower grpo.learning_rate; raise grpo.prompts_per_step or num_generations.",
    ),
    "kl_divergence": Entry(
        kl_divergence,
        "The policy is leaving the SFT model and forgets what that one knew.",
        "Lower grpo.learning_rate or raise grpo.beta.",
    ),
    "constant_reward": Entry(
        constant_reward,
        "Without a right answer beside wrong ones the advantage holds no sign of what is right.",
        "Run `posttrain check`: do the golds parse, does a right completion score 1, does a completion fit into "
        "grpo.max_completion_length? If all is well, the problems are too hard: more SFT or easier ones.",
    ),
    "low_advantage_std": Entry(
        low_advantage_std,
        "The completions of a group get nearly the same reward, so there is little to learn from.",
        "Raise grpo.temperature or num_generations; choose problems that the model solves now and then.",
        said_by="constant_reward",
    ),
    "high_advantage_std": Entry(
        high_advantage_std,
        "Rewards this far apart make every step a large one in a noisy direction.",
        "Lower the weight of the reward that differs most; raise grpo.num_generations.",
    ),
    "reward_collapse": Entry(
        reward_collapse,
        "The policy unlearns what it could do.",
        "Lower grpo.learning_rate or raise grpo.beta; grpo.publish: best keeps the weights from before.",
    ),
    "flat_accuracy": Entry(
        flat_accuracy,
        "The form is learnt, so what is left to learn are answers, and they do not get better.",
        "Lower rewards.format.weight if it is not far below accuracy's. If it is: a higher grpo.learning_rate, more "
        "prompts_per_step, or problems that the model solves now and then.",
    ),
    "entropy_collapse": Entry(
        entropy_collapse,
        "The policy says the same thing whatever it is asked for, so it finds nothing better any more.",
        "Raise grpo.temperature or beta, or lower grpo.learning_rate.",
    ),
    "truncation": Entry(
        truncation,
        "A completion that is cut off has no answer, so the reward punishes length, not mistakes.",
        "Raise grpo.max_completion_length, or shorten the traces of SFT; lower grpo.temperature if completions ramble.",
    ),
    "probe_falls": Entry(
        probe_falls,
        "The reward rises on what is trained and not on what it stands for: the policy games it.",
        "Read results/grpo/samples.jsonl; lower the weights of all rewards but accuracy; grpo.publish: best.",
    ),
    "verifier_timeouts": Entry(
        verifier_timeouts,
        "A completion without a verdict takes no part in its group's baseline.",
        "Look for endless or enormous answers in results/grpo/samples.jsonl.",
    ),
    "mismatch": Entry(
        mismatch,
        "vLLM draws from another distribution than the one that is trained, and the importance ratio takes from every "
        "completion what it is off by.",
        "Compare the versions, dtypes and weights of both (docs/vllm.md); for long completions "
        "grpo.trl: {vllm_importance_sampling_mode: token_truncate}.",
    ),
}


class Monitor:
    """The rules over one run. Each speaks once, and once more after each rollback."""

    def __init__(self, params: Params) -> None:
        self.health = params.grpo.health
        self.weights = reward_weights(params)
        self.completions = params.grpo.prompts_per_step * params.grpo.num_generations
        self.scaled = params.grpo.scale_rewards != "none"
        self.history = History()
        self.fired: dict[str, int] = {}
        """The step at which a rule spoke."""
        self.rollbacks = 0

    def observe(self, row: Row) -> list[Finding]:
        """The findings that this row of the curve brings up, in the order of the table."""
        row = unselected(row)
        self._remember(row)
        views = self._view(row)
        found = []
        for name, entry in RULES.items():
            action = getattr(self.health, name).action
            if action == "off" or name in self.fired or entry.said_by in self.fired:
                continue
            if name != "not_finite" and not views.window:
                continue
            saw = entry.see(views)
            if saw is not None:
                self.fired[name] = int(row.get("step", 0))
                found.append(Finding(name, self._allowed(action), self.fired[name], saw, entry.why, entry.do))
        if views.window and views.now(TOTAL) > self.history.best_total:
            self.history.best_total = views.now(TOTAL)
        return found

    def rolled_back(self) -> None:
        """The rows since are no part of the run any more, and what was sick may be again."""
        self.rollbacks += 1
        self.history.recent.clear()
        self.fired.clear()

    def state(self) -> dict[str, Any]:
        """Plain data; `load` takes it."""
        history = {name: value for name, value in asdict(self.history).items() if value != -math.inf}
        return {"history": history, "fired": dict(self.fired), "rollbacks": self.rollbacks}

    def load(self, state: Mapping[str, Any]) -> None:
        self.history = History(**state["history"])
        self.fired = dict(state["fired"])
        self.rollbacks = int(state["rollbacks"])

    def _allowed(self, action: str) -> str:
        return "stop" if action == "rollback" and self.rollbacks >= self.health.max_rollbacks else action

    def _remember(self, row: Row) -> None:
        history, window = self.history, self.health.window
        plain = dict(row)
        if len(history.first) < window:
            history.first.append(plain)
        history.recent.append(plain)
        del history.recent[: -(window + self.health.flat_accuracy.rows)]
        if PROBE in plain:
            total = mean(history.recent[-window:], TOTAL)
            if plain[PROBE] >= history.best_probe:
                history.best_probe, history.total_at_best_probe, history.probes_below = plain[PROBE], total, 0
            elif history.best_probe - plain[PROBE] > self.health.probe_falls.drop:
                history.probes_below += 1
            else:
                history.probes_below = 0

    def _view(self, row: Row) -> View:
        recent, window = self.history.recent, self.health.window
        full = len(recent) == window + self.health.flat_accuracy.rows
        return View(
            health=self.health,
            row=row,
            first=self.history.first,
            earlier=recent[:window] if full else [],
            window=recent[-window:] if len(recent) >= window else [],
            history=self.history,
            weights=self.weights,
            completions=self.completions,
            scaled=self.scaled,
        )


def reward_weights(params: Params) -> dict[str, float]:
    """Weight by reward, as params name them."""
    return {name: reward.weight for name, reward in params.rewards.named().items()}
