"""Prepared problems, golds and traces, and what the rewards of params pay for them."""

from typing import Any

from posttrain.commands.check.rules import Finding, enough_problems, later
from posttrain.commands.check.scores import dry_run, form_of_traces, golds, golds_of_their_problems
from posttrain.commands.check.workspace import Workspace
from posttrain.grpo.health import reward_weights
from posttrain.paths import PREPARED
from posttrain.prompts import completion_text

GOLDS = 200
DRY_RUN = 32
"""Problems on which every reward is tried."""
SHIFTS = (1, 2, 3)
"""Whose golds a trace is held against besides its own: those of the problems so many rows on."""
GROUP = 5
"""Completions of each."""


def check_problems(work: Workspace) -> list[Finding]:
    if work.train is None:
        return later("problems per step", "prepare")
    return [enough_problems(work.params.grpo.prompts_per_step, len(work.train) - work.params.grpo.probe.problems)]


def check_golds(work: Workspace) -> list[Finding]:
    if work.train is None or work.manifest is None:
        return later("golds that parse", "prepare")
    answers = list(dict.fromkeys(row["answer"] for row in work.train[: 10 * GOLDS] if row.get("answer")))[:GOLDS]
    if not answers:
        return [Finding("ok", "golds that parse", str(PREPARED), "the data have none")]
    left_out = sum(count for reason, count in work.manifest["dropped"].items() if "cannot read" in reason)
    bad = [gold for gold, good in zip(answers, work.scoring.verifier.readable(answers), strict=True) if not good]
    return [golds(len(answers), bad, left_out, len(work.train))]


def check_rewards(work: Workspace) -> list[Finding]:
    if work.train is None or work.sample is None:
        return later("rewards on real rows", "prepare")
    rows = [row for row in work.train[:DRY_RUN] if row.get("answer")]
    good = work.scoring.verifier.readable([row["answer"] for row in rows])
    rows = [row for row, readable in zip(rows, good, strict=True) if readable]
    if not rows:
        return []
    ids = {row["id"] for row in rows}
    traces: dict[str, list[str]] = {}
    for trace in work.traces_of(ids):
        traces.setdefault(trace["id"], []).append(trace["completion"])
    tried = [(row, kind, text) for row in rows for kind, text in group_to_try(row, traces.get(row["id"], []), work)]
    scores = work.score([text for _, _, text in tried], [row for row, _, _ in tried], GROUP)

    def scores_of(kind: str) -> dict[str, list[float | None]]:
        numbers = [number for number, (_, other, _) in enumerate(tried) if other == kind]
        return {name: [values[number] for number in numbers] for name, values in scores.items()}

    weights, taught = reward_weights(work.params), scores_of("trace")
    form = [] if work.params.sft is None else form_of_traces(taught, weights)
    return [*dry_run(scores_of("right"), scores_of("wrong"), taught, weights), *form]


def check_traces(work: Workspace) -> list[Finding]:
    """Whether golds and problems are in step, as far as the traces can tell."""
    if work.train is None or work.sample is None:
        return later("golds of their problems", "prepare")
    answered = [row for row in work.train[: 10 * GOLDS] if row.get("answer")]
    known = list(dict.fromkeys(row["answer"] for row in answered))
    readable = dict(zip(known, work.scoring.verifier.readable(known), strict=True))
    rows = {row["id"]: row for row in answered if readable[row["answer"]]}
    traces = list({trace["id"]: trace for trace in work.traces_of(rows)}.values())[:GOLDS]
    if len(traces) <= len(SHIFTS):
        return []
    texts, golds = [trace["completion"] for trace in traces], [rows[trace["id"]] for trace in traces]

    def judged(shift: int) -> list[bool | None]:
        completions = work.scoring.completions(texts, golds[shift:] + golds[:shift], [0] * len(texts))
        return [completion.correct for completion in completions]

    return [golds_of_their_problems(judged(0), [verdict for shift in SHIFTS for verdict in judged(shift)])]


def group_to_try(row: dict[str, Any], traces: list[str], work: Workspace) -> list[tuple[str, str]]:
    """(kind, completion) of a right, a wrong and a formless completion and two traces: the group that some rewards
    look at. Right ones fill it up, without a kind, where there are fewer traces."""
    right = completion_text("Some thoughts.", row["answer"])
    wrong = completion_text("Some thoughts.", wrong_answer(row, work))
    group = [("right", right), ("wrong", wrong), ("wrong", "I do not know.")]
    group += [("trace", trace) for trace in dict.fromkeys(traces)]
    return [*group, ("", right), ("", right)][:GROUP]


def wrong_answer(row: dict[str, Any], work: Workspace) -> str:
    """The gold of another problem; of the first few that are written otherwise, one that is not equal all the same."""
    known = dict.fromkeys(str(other["answer"]) for other in work.train or [] if other.get("answer"))
    others = [gold for gold in known if gold != row["answer"]]
    candidates = [*others[:3], f"{row['answer']} + 1"]
    verdicts = work.verdicts([completion_text("Some thoughts.", text) for text in candidates], row)
    return next((text for text, verdict in zip(candidates, verdicts, strict=True) if verdict is False), candidates[0])
