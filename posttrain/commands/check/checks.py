"""Preflight: what is known to go wrong, said in seconds, before anything is spent.

Reads   params.yaml and whatever of data/prepared, models/base and models/sft is there
Run     posttrain check; every stage runs the checks that concern it

A warning may be meant. A fault cannot work: it ends the stage, and `posttrain check` exits with 2. The tutorial's five
pitfalls are caught under its names. What cannot be checked yet is said to be so. Imports torch only when a tokenizer or
the machine has to be looked at.
"""

from collections.abc import Callable
from functools import partial

from posttrain.commands.check.data import check_golds, check_problems, check_rewards, check_traces
from posttrain.commands.check.machine import check_disk, check_lighteval, check_outputs
from posttrain.commands.check.models import changes_since, check_base_weights, check_sft_weights, check_stale
from posttrain.commands.check.optimizer import precision, rollbacks, warmup
from posttrain.commands.check.resources import check_resources
from posttrain.commands.check.rollouts import check_sampler
from posttrain.commands.check.rules import (
    Finding,
    batches,
    completion_lengths,
    context,
    few_generations,
    high_learning_rate,
    imbalanced_weights,
    later,
    loss_and_level,
    no_kl,
    trace_lengths,
    unseen_advantages,
)
from posttrain.commands.check.tokens import end_of_turn, tags, template
from posttrain.commands.check.workspace import Workspace, read_config
from posttrain.errors import InputError
from posttrain.grpo.health import RULES, reward_weights
from posttrain.launch.layout import layout
from posttrain.outputs.facts import OUTS
from posttrain.outputs.manifest import MANIFEST, require_replaceable
from posttrain.outputs.parents import require_tracked
from posttrain.params.schema import Params
from posttrain.paths import EVALUATE_RESULTS, GRPO_MODEL, PREPARED, REPORT, SFT_MODEL, UNPUBLISHED
from posttrain.training.trackers import require_trackers
from posttrain.vllm.rollouts import require_completions, require_rollouts

STAGES = ("prepare", "sft", "grpo", "evaluate", "report")
MODELS_AND_DATA = (PREPARED, SFT_MODEL, GRPO_MODEL)


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
    sft, model, launch = work.params.require_sft(), work.params.model, work.params.launch
    found = layout(launch)
    return [
        batches("sft", "sft.batch_size", sft.batch_size, 1, launch.micro_batch_size, found.processes),
        precision(
            "sft", sft.learning_rate, model.dtype, launch.mixed_precision, found.strategy, model.lora is not None
        ),
        warmup("sft", sft.warmup_steps, sft.max_steps),
    ]


def check_grpo_launch(work: Workspace) -> list[Finding]:
    grpo, model, launch = work.params.grpo, work.params.model, work.params.launch
    found = layout(launch)
    where, size = "grpo.prompts_per_step x grpo.num_generations", grpo.num_generations
    actions = {rule: getattr(grpo.health, rule).action for rule in RULES}
    return [
        batches("grpo", where, grpo.prompts_per_step, size, launch.micro_batch_size, found.processes),
        precision(
            "grpo", grpo.learning_rate, model.dtype, launch.mixed_precision, found.strategy, model.lora is not None
        ),
        warmup("grpo", grpo.warmup_steps, grpo.max_steps),
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


def check_base(work: Workspace) -> list[Finding]:
    """The tokenizer of the model that is trained or adopted."""
    tokenizer, where = work.base_tokenizer, work.params.model.name_or_path
    if tokenizer is None:
        return later("tags", "prepare" if where == "scratch" else "sft")
    return [tags(tokenizer, where), template(tokenizer, where, work.params.prompts.system)]


def check_trace_lengths(work: Workspace) -> list[Finding]:
    if work.base_tokenizer is None or not work.sample:
        return later("lengths of the traces", "prepare" if work.sample is None else "sft")
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
        found.append(tags(work.sft_tokenizer, str(work.sft_model), "tags of the policy"))
    if work.sample is None or work.tokenizer("grpo") is None:
        return [*found, *later("context length of grpo", "prepare" if work.sample is None else "sft")]
    return [*found, *lengths("grpo", "grpo.max_completion_length", grpo.max_completion_length, work)]


def lengths(stage: str, where: str, limit: int, work: Workspace) -> list[Finding]:
    """Prompts and completions against the context, traces against completions where the data have any."""
    traces_T = [trace for _, trace in work.trace_lengths("grpo")]
    found = [context(stage, where, max(work.prompt_lengths("grpo")), limit, work.positions("grpo"))]
    return [*found, completion_lengths(stage, traces_T, where, limit)] if traces_T else found


def check_evaluation(work: Workspace) -> list[Finding]:
    if work.sample is None or work.tokenizer("grpo") is None:
        return later("context length of evaluate", "prepare" if work.sample is None else "sft")
    return lengths("evaluate", "evaluate.max_new_tokens", work.params.evaluate.max_new_tokens, work)


check_sft_resources = partial(check_resources, "sft")

CHECKS: tuple[tuple[str, Callable[[Workspace], list[Finding]]], ...] = (
    *((stage, check_outputs) for stage in STAGES),
    *((stage, partial(check_replaceable, stage)) for stage in ("prepare", "sft", "grpo")),
    ("sft", partial(check_stale, PREPARED)),
    ("grpo", partial(check_stale, PREPARED)),
    ("grpo", partial(check_stale, SFT_MODEL)),
    ("evaluate", partial(check_stale, SFT_MODEL)),
    ("evaluate", partial(check_stale, GRPO_MODEL)),
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
    ("sft", check_base_weights),
    ("sft", check_tracked),
    ("sft", check_base),
    ("sft", check_trace_lengths),
    ("sft", partial(check_disk, "sft")),
    ("sft", check_sft_resources),
    ("grpo", check_sft_weights),
    ("grpo", check_policy),
    ("grpo", partial(check_disk, "grpo")),
    ("grpo", partial(check_resources, "grpo")),
    ("evaluate", check_evaluation),
    ("evaluate", check_completions),
    ("evaluate", check_lighteval),
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
        if stage in (None, "grpo"):
            work.warm_up(stage)
        for concerned, check in checks_of(params):
            if stage in (None, concerned):
                try:
                    new = check(work)
                except InputError as error:
                    new = [Finding("fault", "input", error.where, error.got, f"Wanted {error.wanted}.", error.do)]
                found += [finding for finding in new if finding not in found]
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
    goes_on = "mend the faults, then posttrain check" if count["fault"] else next_command(params)
    print(f"check | {count['fault']} faults, {count['warn']} warnings | next: {goes_on}")
    return not count["fault"]


def next_command(params: Params) -> str:
    """The first stage whose output is not there, or is of other params."""
    made = {
        "prepare": PREPARED / MANIFEST,
        "sft": SFT_MODEL / MANIFEST,
        "grpo": GRPO_MODEL / MANIFEST,
        "evaluate": EVALUATE_RESULTS / "samples.jsonl",
        "report": REPORT,
    }
    for stage, path in made.items():
        if not path.is_file() or (path.parent in MODELS_AND_DATA and changes_since(path.parent, params)):
            return f"posttrain {stage}"
    return "posttrain gate"
