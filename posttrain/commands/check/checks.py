"""Preflight: what is known to go wrong, said in seconds, before anything is spent.

Reads   params.yaml and whatever of data/prepared, models/base and models/sft is there
Run     posttrain check; every stage runs the checks that concern it

A warning may be meant. A fault cannot work: it ends the stage, and `posttrain check` exits with 2. The tutorial's five
pitfalls are caught under its names. What cannot be checked yet is said to be so. Imports torch only when a tokenizer or
the machine has to be looked at.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from posttrain.commands.check.resources import check_resources
from posttrain.commands.check.rollouts import check_sampler
from posttrain.commands.check.rules import (
    Finding,
    batches,
    completion_lengths,
    context,
    dry_run,
    end_of_turn,
    enough_problems,
    few_generations,
    golds,
    golds_of_their_problems,
    high_learning_rate,
    imbalanced_weights,
    loss_and_level,
    master_weights,
    no_kl,
    rollbacks,
    tags,
    trace_lengths,
    unseen_advantages,
)
from posttrain.commands.check.workspace import Workspace, read_config
from posttrain.errors import InputError
from posttrain.grpo.health import RULES, reward_weights
from posttrain.launch.layout import layout
from posttrain.outputs.facts import OUTS
from posttrain.outputs.manifest import MANIFEST, require_replaceable
from posttrain.outputs.parents import require_tracked
from posttrain.params.schema import Params
from posttrain.paths import EVALUATE_RESULTS, GRPO_MODEL, PREPARED, REPORT, SFT_MODEL, UNPUBLISHED
from posttrain.prompts import completion_text
from posttrain.training.trackers import require_trackers
from posttrain.vllm.rollouts import require_completions, require_rollouts

GOLDS = 200
DRY_RUN = 32
"""Problems on which every reward is tried."""
SHIFTS = (1, 2, 3)
"""Whose golds a trace is held against besides its own: those of the problems so many rows on."""
GROUP = 5
"""Completions of each."""


def later(name: str, needs: str) -> list[Finding]:
    return [Finding("later", name, needs, f"cannot be checked before `posttrain {needs}`")]


def check_objective(work: Workspace) -> list[Finding]:
    grpo = work.params.grpo
    return [
        few_generations(grpo.num_generations),
        high_learning_rate(grpo.learning_rate, sft.learning_rate if (sft := work.params.sft) else None),
        no_kl(grpo.beta),
        imbalanced_weights(reward_weights(work.params)),
        unseen_advantages(grpo.max_steps, grpo.logging_steps, grpo.health),
        loss_and_level(grpo.loss_type, grpo.importance_sampling_level),
    ]


def check_sft_launch(work: Workspace) -> list[Finding]:
    sft, launch = work.params.require_sft(), work.params.launch
    found = layout(launch)
    return [
        batches("sft.batch_size", sft.batch_size, 1, launch.micro_batch_size, found.processes),
        master_weights(work.params.model.dtype, launch.mixed_precision, found.strategy),
    ]


def check_grpo_launch(work: Workspace) -> list[Finding]:
    grpo, launch = work.params.grpo, work.params.launch
    found = layout(launch)
    where, size = "grpo.prompts_per_step x grpo.num_generations", grpo.num_generations
    actions = {rule: getattr(grpo.health, rule).action for rule in RULES}
    return [
        batches(where, grpo.prompts_per_step, size, launch.micro_batch_size, found.processes),
        master_weights(work.params.model.dtype, launch.mixed_precision, found.strategy),
        rollbacks(actions, found.strategy),
    ]


def check_grpo_options(work: Workspace) -> list[Finding]:
    """As the stage will: TRL has the last word on its options."""
    if not work.params.grpo.trl:
        return []
    from posttrain.grpo.trainer import trainer_config

    trainer_config(work.params, UNPUBLISHED)
    return [Finding("ok", "further options", "grpo.trl", ", ".join(work.params.grpo.trl))]


def check_rollouts(work: Workspace) -> list[Finding]:
    require_rollouts(work.params)
    return []


def check_completions(work: Workspace) -> list[Finding]:
    require_completions(work.params)
    return []


def check_trackers(work: Workspace) -> list[Finding]:
    require_trackers(work.params.launch)
    return []


def check_sft_options(work: Workspace) -> list[Finding]:
    options = work.params.require_sft().trl
    if not options:
        return []
    from posttrain.sft.trainer import trainer_config

    trainer_config(work.params, UNPUBLISHED)
    return [Finding("ok", "further options", "sft.trl", ", ".join(options))]


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
    if work.train is None or work.traces is None:
        return later("rewards on real rows", "prepare")
    rows = [row for row in work.train[:DRY_RUN] if row.get("answer")]
    good = work.scoring.verifier.readable([row["answer"] for row in rows])
    rows = [row for row, readable in zip(rows, good, strict=True) if readable]
    if not rows:
        return []
    ids = {row["id"] for row in rows}
    traces: dict[str, list[str]] = {}
    for trace in work.traces:
        if trace["id"] in ids:
            traces.setdefault(trace["id"], []).append(trace["completion"])
    tried = [(row, kind, text) for row in rows for kind, text in group_to_try(row, traces.get(row["id"], []), work)]
    scores = work.score([text for _, _, text in tried], [row for row, _, _ in tried], GROUP)

    def scores_of(kind: str) -> dict[str, list[float | None]]:
        numbers = [number for number, (_, other, _) in enumerate(tried) if other == kind]
        return {name: [values[number] for number in numbers] for name, values in scores.items()}

    return dry_run(scores_of("right"), scores_of("wrong"), scores_of("trace"), reward_weights(work.params))


def check_traces(work: Workspace) -> list[Finding]:
    """Whether golds and problems are in step, as far as the traces can tell."""
    if work.train is None or work.traces is None:
        return later("golds of their problems", "prepare")
    answered = [row for row in work.train[: 10 * GOLDS] if row.get("answer")]
    known = list(dict.fromkeys(row["answer"] for row in answered))
    readable = dict(zip(known, work.scoring.verifier.readable(known), strict=True))
    rows = {row["id"]: row for row in answered if readable[row["answer"]]}
    traces = list({trace["id"]: trace for trace in work.traces if trace["id"] in rows}.values())[:GOLDS]
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


def check_base(work: Workspace) -> list[Finding]:
    """The tokenizer of the model that is trained or adopted."""
    tokenizer, where = work.base_tokenizer, work.params.model.name_or_path
    if tokenizer is None:
        return later("tags", "prepare" if where == "scratch" else "sft")
    return [tags(tokenizer, where)]


def check_trace_lengths(work: Workspace) -> list[Finding]:
    if work.base_tokenizer is None or not work.traces:
        return later("lengths of the traces", "prepare" if work.traces is None else "sft")
    lengths = [whole for whole, _ in work.trace_lengths("sft")]
    return [trace_lengths(lengths, work.params.require_sft().max_length, work.positions("sft"))]


def check_tracked(work: Workspace) -> list[Finding]:
    require_tracked(work.params.model.name_or_path)
    return []


def check_replaceable(stage: str, work: Workspace) -> list[Finding]:
    """The folder that the stage will replace, and that DVC removes before it runs it."""
    require_replaceable(OUTS[stage])
    return []


def check_adoption(work: Workspace) -> list[Finding]:
    """In place of the rules of training, which have nothing to look at."""
    saw = f"null: {work.params.model.name_or_path} becomes {SFT_MODEL} as it is; the rules of training are skipped"
    return [Finding("ok", "no SFT", "sft", saw)]


def check_policy(work: Workspace) -> list[Finding]:
    """The checkpoint that GRPO starts from, against the prompts and completions it will see."""
    grpo, found = work.params.grpo, []
    if work.sft_model is None:
        found += later("end of turn", "sft")
    else:
        generation = read_config(work.sft_model / "generation_config.json")
        found.append(end_of_turn(work.sft_tokenizer, work.config("grpo"), generation, str(work.sft_model)))
        found.append(tags(work.sft_tokenizer, str(work.sft_model)))
    if work.traces is None or work.tokenizer("grpo") is None:
        return [*found, *later("context length", "prepare" if work.traces is None else "sft")]
    found.append(context(max(work.prompt_lengths("grpo")), grpo.max_completion_length, work.positions("grpo")))
    return [*found, *check_room("grpo.max_completion_length", grpo.max_completion_length, work)]


def check_room(where: str, limit: int, work: Workspace) -> list[Finding]:
    """Nothing to say about data without traces."""
    lengths = [trace for _, trace in work.trace_lengths("grpo")]
    return [completion_lengths(lengths, where, limit)] if lengths else []


def check_evaluation(work: Workspace) -> list[Finding]:
    if work.traces is None or work.tokenizer("grpo") is None:
        return later("room for a completion", "prepare" if work.traces is None else "sft")
    return check_room("evaluate.max_new_tokens", work.params.evaluate.max_new_tokens, work)


check_sft_resources = partial(check_resources, "sft")

CHECKS: tuple[tuple[str, Callable[[Workspace], list[Finding]]], ...] = (
    *((stage, partial(check_replaceable, stage)) for stage in ("prepare", "sft", "grpo")),
    ("sft", check_sft_launch),
    ("grpo", check_grpo_launch),
    ("grpo", check_objective),
    ("grpo", check_grpo_options),
    ("sft", check_sft_options),
    ("sft", check_trackers),
    ("grpo", check_trackers),
    ("grpo", check_rollouts),
    ("grpo", check_sampler),
    ("grpo", check_problems),
    ("grpo", check_golds),
    ("grpo", check_rewards),
    ("grpo", check_traces),
    ("sft", check_tracked),
    ("sft", check_base),
    ("sft", check_trace_lengths),
    ("sft", check_sft_resources),
    ("grpo", check_policy),
    ("grpo", partial(check_resources, "grpo")),
    ("evaluate", check_evaluation),
    ("evaluate", check_completions),
)
"""The stage that a check concerns, and the check."""
OF_TRAINING = (check_sft_launch, check_sft_options, check_trace_lengths, check_sft_resources)
"""Of sft, and without an object where it is null."""


def checks_of(params: Params) -> list[tuple[str, Callable[[Workspace], list[Finding]]]]:
    if params.sft is not None:
        return list(CHECKS)
    return [("sft", check_adoption), *((stage, check) for stage, check in CHECKS if check not in OF_TRAINING)]


def findings(params: Params, stage: str | None = None) -> list[Finding]:
    """What there is to say about one stage, or about all. A model that cannot be loaded is a fault like any other."""
    found: list[Finding] = []
    with Workspace(params) as work:
        for concerned, check in checks_of(params):
            if stage in (None, concerned):
                try:
                    found += check(work)
                except InputError as error:
                    fault = Finding("fault", "input", error.where, error.got, f"Wanted {error.wanted}.", error.do)
                    found += [fault] if fault not in found else []
    return found


def preflight(params: Params, stage: str) -> None:
    """What a stage does first: print the warnings that concern it.

    Raises: InputError for the faults.
    """
    found = findings(params, stage)
    for finding in found:
        if finding.level == "warn":
            print(f"{stage} | {finding}", flush=True)
    faults = [finding for finding in found if finding.level == "fault"]
    if len(faults) == 1:
        (fault,) = faults
        where = fault.where if fault.name == "input" else f"{fault.where} ({fault.name})"
        wanted = fault.why.removeprefix("Wanted ").removesuffix(".") if fault.name == "input" else fault.why
        raise InputError(where, got=fault.saw, wanted=wanted, do=fault.do)
    if faults:
        raise InputError(
            "preflight",
            got=f"{len(faults)} faults\n          " + "\n          ".join(str(fault) for fault in faults),
            wanted="none",
            do="mend them; `posttrain check` says whether that worked",
        )


def run(params: Params) -> bool:
    """Print one line a check and the next command; False if there is a fault."""
    found = findings(params)
    for finding in found:
        print(finding)
    count = {level: sum(finding.level == level for finding in found) for level in ("warn", "fault")}
    goes_on = "mend the faults, then posttrain check" if count["fault"] else next_command()
    print(f"check | {count['fault']} faults, {count['warn']} warnings | next: {goes_on}")
    return not count["fault"]


def next_command() -> str:
    """The first stage whose output is not there."""
    made = {
        "prepare": PREPARED / MANIFEST,
        "sft": SFT_MODEL / MANIFEST,
        "grpo": GRPO_MODEL / MANIFEST,
        "evaluate": EVALUATE_RESULTS / "samples.jsonl",
        "report": REPORT,
    }
    return next((f"posttrain {stage}" for stage, path in made.items() if not path.is_file()), "posttrain gate")
