"""The schema of params.yaml: names, types, ranges, and under each key what it means.

Science has no default: each of its keys has to be in the file, which is the recipe. Hardware (`launch`) and thresholds
(`grpo.health`) have defaults, those of the shipped recipe. docs/params.md is made from what stands here.

Imports no torch, so `posttrain`, the flows and the tests can check a file in a moment. Keys that TRL or transformers
know keep their spelling and go to the trainer's config unchanged.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from posttrain.judge.kinds import Kind
from posttrain.params.health import Health
from posttrain.params.launch import Launch
from posttrain.params.rewards import Rewards
from posttrain.params.section import Section

Dtype = Literal["float32", "bfloat16"]


Layout = Literal[
    "auto", "columns", "openr1-math", "messages", "conversations", "gsm8k", "boxed", "verl", "open-thoughts", "deepmath"
]
Use = Literal["both", "sft", "grpo"]

BUILT_IN = "equations"
ONE, SEVERAL = "one source", "sources"

Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]


class ScratchModel(Section):
    """A Qwen2 with random weights and a byte-level BPE trained on the prepared text."""

    vocab_size: int = Field(ge=300)
    """Upper bound on the tokenizer's size; byte-level BPE needs 256 bytes, the special tokens and the tags."""
    hidden_size: int = Field(ge=8)
    """Width of the embeddings and of each layer; a multiple of 2 x `num_attention_heads`."""
    intermediate_size: int = Field(ge=8)
    """Width within the feed-forward part of a layer."""
    num_hidden_layers: int = Field(ge=1)
    """Number of layers."""
    num_attention_heads: int = Field(ge=1)
    """Heads of a layer's attention; a multiple of `num_key_value_heads`."""
    num_key_value_heads: int = Field(ge=1)
    """Heads with keys and values of their own, which the others share."""
    max_position_embeddings: int = Field(ge=16)
    """Context length in tokens: prompt and completion together."""
    initializer_range: float = Field(gt=0)
    """Standard deviation of the initial weights. Narrow models want more than the usual 0.02."""

    @model_validator(mode="after")
    def heads_divide(self) -> "ScratchModel":
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of 2 x num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        return self


class Lora(Section):
    """Adapters of low rank that are trained instead of the weights, in sft and in grpo; merged before publishing."""

    r: int = Field(ge=1)
    """Rank of the two matrices beside each weight."""
    alpha: int = Field(ge=1)
    """Numerator of alpha / r, by which the product of the two is scaled."""
    dropout: float = Field(ge=0, lt=1)
    """Share of an adapter's inputs that is set to 0 at random while it trains."""
    target_modules: Literal["all-linear"] | list[str]
    """Names of linear layers, such as [q_proj, v_proj]; `all-linear` for all but the output layer."""
    quantize_4bit: bool
    """Weights beside the adapters in 4 bits while they train (QLoRA). Needs a CUDA GPU and bitsandbytes."""

    @field_validator("target_modules")
    @classmethod
    def not_the_output_layer(cls, names: str | list[str]) -> str | list[str]:
        if not names:
            raise ValueError("the name of a linear layer at least, or all-linear")
        if "lm_head" in names or "embed_tokens" in names:
            raise ValueError("linear layers between embedding and output; TRL reads the output weights past an adapter")
        return names


class Model(Section):
    """The model that SFT starts from, or GRPO where `sft` is null."""

    name_or_path: str = Field(min_length=1)
    """Name on the Hugging Face Hub, a local folder in transformers' format, or `scratch`."""
    revision: str | None
    """Commit of a Hub model. A branch moves, a commit does not."""
    dtype: Dtype
    """Type of the weights while training and of the published checkpoints."""
    trust_remote_code: bool
    """Permission for Python that comes with the model to run. Off unless you have read it."""
    lora: Lora | None
    """Adapters that are trained instead of the weights; null trains all weights."""
    scratch: ScratchModel
    """Architecture of the model if `name_or_path` is `scratch`."""

    @model_validator(mode="after")
    def there_is_something_to_quantize(self) -> "Model":
        if self.lora is not None and self.lora.quantize_4bit and self.name_or_path == "scratch":
            raise ValueError("lora.quantize_4bit with name_or_path scratch: weights that are drawn here are not loaded")
        return self


class Prompts(Section):
    """Words to the model beside the problem."""

    system: str | None
    """System message before every problem, in training and in evaluation; null for none."""


class Teacher(Section):
    """How often the traces of the built-in equations are wrong."""

    operation_slip_frac: float = Field(ge=0, le=1)
    """Share of traces that subtract the coefficient instead of dividing by it; half of them also move the constant to
    the other side with its sign unchanged."""


class Equations(Section):
    """`Solve: ax + b = c` and `Solve: ax - b = c` for every a, x, b up to these bounds (a from 2, x and b from 1)."""

    max_coefficient: int = Field(ge=2, le=99)
    """Highest a."""
    max_solution: int = Field(ge=1, le=99)
    """Highest x."""
    max_constant: int = Field(ge=1, le=99)
    """Highest b."""
    traces_per_problem: int = Field(ge=1)
    """Teacher traces for each training problem, right and wrong ones mixed."""
    teacher: Teacher
    """Mistakes of the traces."""


TAKEN = {"id", "problem", "answer", "contaminated", "prompts", "completions", "tokens"}
"""Names that a column to keep would lose its values to."""


class Columns(Section):
    """Names in the source data, or paths into a column: `reward_model.ground_truth`, `messages[0].content`,
    `messages[-1].content`. Equations do not use them."""

    problem: str
    """Column with the problem."""
    solution: str | None
    """Column with the reasoning that SFT imitates, a text or a list of texts; null for data without any."""
    answer: str | None
    """Column with the gold answer; may be that of `solution`, see `answer_pattern`. null for problems that no answer
    checks, such as programs with test cases; lighteval cannot judge these."""
    keep: list[str]
    """Further columns that rewards need, carried along as they are. None may be called `id`, `problem`, `answer` or
    `contaminated`, which rows have of their own, nor `prompts`, `completions` or `tokens`, which rewards are given."""

    @field_validator("keep")
    @classmethod
    def no_name_is_taken(cls, keep: list[str]) -> list[str]:
        if taken := [name for name in keep if name in TAKEN]:
            raise ValueError(
                f"`{taken[0]}` is a name that rows and rewards have already: rename the column in the data"
            )
        return keep

    def named(self) -> bool:
        """Whether a column has another name than the shipped one."""
        return self.problem != "problem" or not {self.solution, self.answer} <= {"solution", "answer", None}


class Source(Section):
    """One of several sources in `prepare.dataset`. What it does not say is that of `prepare`."""

    dataset: str = Field(min_length=1)
    """A file or folder in data/source, or a Hub name."""
    name: str | None = None
    """What the data card calls it; null for the name in `dataset`."""
    config: str | None = None
    """Configuration of a Hub dataset, or of a clone of one."""
    revision: str | None = None
    """Commit of a Hub dataset."""
    train_split: str | None = None
    """Split whose problems train; null for `prepare.train_split`."""
    test_split: str | None = None
    """Split whose problems evaluate. Not there: `prepare.test_split`; null: none of this source."""
    columns: Columns | None = None
    """Names of the columns; null for `prepare.columns`."""
    layout: Layout | None = None
    """Form of the rows; null for `prepare.layout`."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the training rows with a problem that come from here, relative to the other sources' weights; null for
    all rows of all sources. The largest mixture with these shares is taken, chosen by a hash of the problem."""
    use: Use = "both"
    """What its rows are for: `sft` (traces, which need no gold), `grpo` (prompts, which need no solution) or both."""


Datasets = Annotated[
    Annotated[str, Field(min_length=1), Tag(ONE)] | Annotated[list[Source], Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
]
"""With a discriminator, an error is told of the kind that was meant."""


class TraceRules(Section):
    """Which traces SFT does not get. Those that are empty, cut off, with tags out of order or repeated go in any
    case."""

    contradicting: Literal["drop", "keep"]
    """Traces whose own conclusion (answer block, last box or `####` line) the judge finds to differ from the gold:
    `keep` leaves them their own answer. Those of the built-in equations are kept: their mistakes are meant."""
    max_chars: int | None = Field(ge=1)
    """Characters of the longest trace, tags and answer included; null for any. `sft.max_length` counts tokens."""


HELD_OUT = "held_out"


class EvaluationSet(Section):
    """Problems of a benchmark, which training problems are compared with."""

    name: str = Field(pattern=r"[\w.-]+")
    """What manifest and report call it."""
    path: str = Field(min_length=1)
    """A file or folder in data/source."""
    split: str = "train"
    """Split of it; that of a file is `train`."""
    column: str = "problem"
    """Column with the problem."""


class Prepare(Section):
    """Source of the problems, and which of them train and which evaluate."""

    dataset: Datasets
    """Source of the problems: `equations` (built in), a file or folder in data/source, a Hub name, or a list of these
    with a section each, as docs/sources.md says."""
    config: str | None
    """Configuration of a Hub dataset, or of a clone of one."""
    revision: str | None
    """Commit of a Hub dataset."""
    layout: Layout
    """Form of the rows: `auto` recognises it by the columns unless `columns` names other ones than the shipped;
    `columns` takes them as they are; or one of docs/sources.md."""
    train_split: str
    """Split whose problems train, also a slice: `train[:100]`, `train[10%:20%]`."""
    test_split: str | None
    """Split whose problems evaluate; null holds out `test_frac` of the problems instead, chosen by a hash of the
    problem's text."""
    test_frac: float = Field(gt=0, lt=1)
    """Share of the problems that is held out without a `test_split`."""
    max_train: int | None = Field(ge=1)
    """Problems kept for training, null for all. A hash of their text chooses them, not the order of the file."""
    max_test: int | None = Field(ge=1)
    """Problems kept for evaluation, chosen likewise; null for all."""
    max_solution_chars: int | None = Field(ge=1)
    """Problems of which every solution has more characters, as the source writes it, are left out, of training and
    evaluation alike; null for none. It makes a set of short problems out of a benchmark."""
    columns: Columns
    """Names of the columns of the source."""
    answer_pattern: str | None
    """Regular expression; group 1 in the answer column is the gold, in a box up to the brace that matches. The match is
    cut out of the solution, unless it is a box."""
    drop_pattern: str | None
    """Regular expression; every match is cut out of the solution."""
    drop_golds: list[Kind]
    """Kinds of gold whose problems are left out, such as `prose`: more than four words, or a placeholder (`proof`,
    `MCQ`). Golds that the judge cannot read are left out in any case."""
    traces: TraceRules
    """Traces that SFT does not get."""
    max_faulty_frac: float = Field(ge=0, le=1)
    """Share of the rows of the sources that may be faulty, without a problem or a gold for instance: they are left
    out and counted. More of them stop the stage."""
    near_duplicates: float | None = Field(gt=0, le=1)
    """Share of word trigrams in common (Jaccard index) from which problems with the same numbers and the same gold are
    one; null for equal ones alone. Groups of them are held out together or not at all."""
    decontaminate: list[Literal["held_out"] | EvaluationSet]
    """Evaluation sets whose problems training problems must not hold, in other words either: `held_out`, and others as
    {name, path, column}."""
    keep_contaminated: list[str]
    """Names of those whose problems stay in training all the same: listed, and flagged where they are held out."""
    equations: Equations
    """Problems of the built-in source."""

    @property
    def built_in(self) -> bool:
        return self.dataset == BUILT_IN

    @property
    def sources(self) -> list[Source]:
        """Every source with all that `prepare` says for it; none for the built-in equations."""
        if isinstance(self.dataset, str):
            alone = {"dataset": self.dataset, "config": self.config, "revision": self.revision}
            return [] if self.built_in else [self._completed(Source.model_validate(alone))]
        return [self._completed(source) for source in self.dataset]

    @property
    def datasets(self) -> str:
        """What the sources are of, each once, as pages and messages say it."""
        named = [self.dataset] if isinstance(self.dataset, str) else [source.dataset for source in self.dataset]
        return ", ".join(dict.fromkeys(named))

    def _completed(self, source: Source) -> Source:
        said = source.model_fields_set
        own = {
            "name": source.name or source.dataset,
            "train_split": source.train_split or self.train_split,
            "test_split": source.test_split if "test_split" in said else self.test_split,
            "columns": source.columns or self.columns,
            "layout": source.layout or self.layout,
        }
        return source.model_copy(update=own)

    @field_validator("dataset")
    @classmethod
    def sources_fit_together(cls, dataset: str | list[Source]) -> str | list[Source]:
        if isinstance(dataset, str):
            return dataset
        names = [source.name or source.dataset for source in dataset]
        weighted = [source.weight is not None for source in dataset]
        if not names:
            raise ValueError("one source at least")
        if BUILT_IN in [source.dataset for source in dataset]:
            raise ValueError(f"{BUILT_IN} alone, or other sources")
        if len({*names}) < len(names):
            raise ValueError("a name of its own for each source: `name`")
        if any(weighted) and not all(weighted):
            raise ValueError("a weight for every source, or for none")
        return dataset

    @property
    def evaluation_paths(self) -> list[str]:
        """Files and folders of the evaluation sets."""
        return [one.path for one in self.decontaminate if isinstance(one, EvaluationSet)]

    @model_validator(mode="after")
    def kept_sets_are_named(self) -> "Prepare":
        names = [one.name if isinstance(one, EvaluationSet) else one for one in self.decontaminate]
        unknown = [name for name in self.keep_contaminated if name not in names]
        if unknown or len({*names}) < len(names):
            raise ValueError(f"keep_contaminated names sets of decontaminate, each once: {', '.join(names)}")
        return self

    @field_validator("answer_pattern", "drop_pattern")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"a regular expression; this one has an error: {error}") from None
        return pattern

    @field_validator("answer_pattern")
    @classmethod
    def has_a_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and re.compile(pattern).groups == 0:
            raise ValueError("a regular expression with a group, which is the gold: (...)")
        return pattern


class Optimisation(Section):
    """Keys that sft and grpo share, under transformers' names."""

    max_steps: int = Field(ge=1)
    """Optimizer steps."""
    learning_rate: float = Field(gt=0)
    """Step size of AdamW at its highest, after the warm-up."""
    lr_scheduler_type: Schedule
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = Field(ge=0)
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = Field(ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(gt=0)
    """Norm to which longer gradients are clipped."""
    logging_steps: int = Field(ge=1)
    """Steps per line on the console and per row of the curve."""

    @model_validator(mode="after")
    def something_is_logged(self) -> "Optimisation":
        if self.logging_steps > self.max_steps:
            raise ValueError(f"logging_steps {self.logging_steps} is more than max_steps {self.max_steps}")
        return self


class SFT(Optimisation):
    """Supervised fine-tuning on the traces, on completions only. `null` in place of the section trains nothing: the
    model of `model.name_or_path` becomes models/sft as it is."""

    batch_size: int = Field(ge=1)
    """Sequences per optimizer step over all processes."""
    max_length: int = Field(ge=16)
    """Tokens of prompt and completion. Longer rows are left out and counted, never cut."""
    trl: dict[str, Any]
    """Further options of TRL's SFTConfig, under TRL's names; see `grpo.trl`."""


class Verifier(Section):
    """Who decides whether an answer equals the gold: math-verify in processes that can be ended."""

    timeout_s: float = Field(gt=0, le=60)
    """CPU seconds for one answer, of which an ordinary one takes a hundredth. Without a verdict by then there is no
    score."""
    max_timeout_frac: float = Field(ge=0, le=1)
    """Share of the last 512 completions without a verdict above which a run stops."""


class Probe(Section):
    """Greedy completions of a few problems of the training split that no step trains on, scored by accuracy alone."""

    problems: int = Field(ge=0)
    """Problems that are kept out of training, chosen by a hash of their text; 0 for no probe."""
    every_steps: int = Field(ge=1)
    """Steps between two probes, a multiple of `logging_steps`."""


class DynamicSampling(Section):
    """Groups whose completions all got the same reward teach nothing; other problems take their place (DAPO)."""

    max_rounds: int = Field(ge=0)
    """Rounds of generation for one batch beside the first, at most; 0 trains on every group as it came."""


class Difficulty(Section):
    """Choice of the training problems by how often a model solves them, measured before the first step with the
    sampling of GRPO: docs/difficulty.md."""

    model: str | None = Field(min_length=1)
    """Folder of the model that is measured, under models/base/; null for models/sft, which GRPO starts from."""
    num_samples: int = Field(ge=2)
    """Completions per problem. The pass rate is the share of them that is right."""
    min_pass: float = Field(ge=0, le=1)
    """Lowest pass rate of a problem that trains."""
    max_pass: float = Field(ge=0, le=1)
    """Highest."""
    order: Literal["shuffled", "easy_first"]
    """Order of the problems in an epoch. `easy_first`: by falling pass rate, a curriculum."""

    @model_validator(mode="after")
    def there_is_a_range(self) -> "Difficulty":
        if self.min_pass > self.max_pass:
            raise ValueError(f"min_pass {self.min_pass:g} is more than max_pass {self.max_pass:g}")
        return self


class GRPO(Optimisation):
    """Group relative policy optimisation from the SFT model."""

    prompts_per_step: int = Field(ge=1)
    """Problems per optimizer step over all processes, each another one."""
    num_generations: int = Field(ge=2)
    """Completions per problem, G. Their mean reward is the baseline, so one alone would carry no signal."""
    max_completion_length: int = Field(ge=1)
    """Tokens of a completion, at most; one that reaches it is cut off without an end token."""
    temperature: float = Field(gt=0)
    """Temperature of sampling."""
    top_p: float = Field(gt=0, le=1)
    """Probability mass of the likeliest tokens that sampling draws from."""
    beta: float = Field(ge=0)
    """Weight of the KL divergence to the SFT model; the tutorial's `kl_penalty`."""
    epsilon: float = Field(gt=0, lt=1)
    """Clip range of the probability ratio; the tutorial's `clip_range`."""
    epsilon_high: float | None = Field(gt=0)
    """Clip range upwards where it is another (DAPO: 0.28); null for `epsilon`. With `loss_type: cispo` it is the
    highest ratio itself, such as 5."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
    """Name of the loss; docs/objective.md has the formula of each."""
    importance_sampling_level: Literal["token", "sequence"]
    """Level of the probability ratio. `sequence`: one for a completion, the geometric mean of its tokens' (GSPO)."""
    mask_truncated_completions: bool
    """Exclusion of completions without an end token from the loss."""
    scale_rewards: Literal["none", "group", "batch"]
    """Deviation that advantages are divided by. `none`: the advantage is the reward minus the group's mean, as in the
    tutorial."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"]
    """Order of summing rewards and taking advantages. `sum_then_normalize`: the advantage is that of the weighted sum.
    `normalize_then_sum`: each reward's own, then summed (GDPO), whatever `scale_rewards` says."""
    num_iterations: int = Field(ge=1)
    """Optimizer passes over one batch of completions."""
    generation_dtype: Literal["bfloat16"] | None
    """Dtype of the copy of the weights that completions are drawn with; null for the weights themselves. It is faster,
    and draws from slightly other probabilities than those that are trained: docs/speed.md."""
    use_vllm: bool
    """Completions from vLLM instead of transformers, as `launch.vllm` says; another sampler draws others."""
    trl: dict[str, Any]
    """Further options of TRL's GRPOConfig, under TRL's names: `{delta: 4.0, sapo_temperature_neg: 1.05}`. What
    posttrain sets itself is refused; names and types are checked against the installed TRL."""
    dynamic_sampling: DynamicSampling
    """Problems in place of those whose completions all got the same reward."""
    difficulty: Difficulty | None
    """Choice of the training problems by their measured pass rate; null trains on all of them."""
    probe: Probe
    """Problems held out from training and solved now and then."""
    publish: Literal["last", "best"]
    """Weights that are published. `best`: those of the step with the highest `probe/accuracy`, the latest of equals."""
    keep_completions_steps: int = Field(ge=0)
    """Steps between those whose completions, with rewards and advantages, all go to
    results/grpo/completions.parquet; 0 keeps none."""
    health: Health = Health()
    """Thresholds and actions of the health monitor, key by key."""

    @model_validator(mode="after")
    def the_objective_is_one(self) -> "GRPO":
        if self.loss_type == "cispo" and self.epsilon_high is None:
            raise ValueError(
                "loss_type cispo without epsilon_high, which is the highest ratio there: TRL would take epsilon, and "
                f"cap every ratio at {self.epsilon:g}; 5.0 is usual"
            )
        if self.generation_dtype and self.use_vllm:
            raise ValueError("generation_dtype with use_vllm, which has model.dtype: one of them")
        if self.beta == 0 and self.trl.get("sync_ref_model"):
            raise ValueError("trl.sync_ref_model with beta 0, which has no reference model")
        return self

    @model_validator(mode="after")
    def the_probe_can_be_read(self) -> "GRPO":
        if self.publish == "best" and not self.probe.problems:
            raise ValueError("publish: best, and probe.problems 0: nothing says which weights are best")
        if self.probe.problems and self.probe.every_steps % self.logging_steps:
            raise ValueError(
                f"probe.every_steps {self.probe.every_steps} is no multiple of logging_steps {self.logging_steps}"
            )
        if self.probe.problems and self.probe.every_steps > self.max_steps:
            raise ValueError(f"probe.every_steps {self.probe.every_steps} is more than max_steps {self.max_steps}")
        return self


class Gate(Section):
    """Demand of `posttrain gate`."""

    min_gain: float | None
    """Smallest gain in pass@1 from SFT to GRPO that the gate lets through, if it is told from chance. Negative: the
    largest loss, which the whole interval has to stay above. null switches it off."""


class LocalTask(Section):
    """A benchmark of lighteval's whose data are here."""

    name: str = Field(min_length=1)
    """Name in lighteval."""
    data: str = Field(min_length=1)
    """Folder with its data, under data/source/."""


class Evaluate(Section):
    """Judgement of the models on the held-out problems, and on benchmarks."""

    tasks: list[str | LocalTask]
    """Problems that the models are asked: `held_out`, which the claim is about; a .jsonl file under data/source/ with
    `problem` and `answer`; a benchmark by lighteval's name, such as math_500, aime24, gsm8k or gpqa:diamond, from the
    Hub or, as {name: gsm8k, data: data/source/gsm8k}, from a local copy of its data."""
    num_samples: int = Field(ge=1)
    """Completions per problem. pass@1 is the mean over them, maj@n the majority vote."""
    temperature: float = Field(ge=0)
    """Temperature of sampling; 0 takes the likeliest token."""
    top_p: float = Field(gt=0, le=1)
    """Probability mass of the likeliest tokens that sampling draws from."""
    max_new_tokens: int = Field(ge=1)
    """Tokens of a completion, at most."""
    batch_size: int = Field(ge=1)
    """Problems that are computed together. A completion is drawn from a seed of its own, so this changes the last bits
    of what the model computes and hardly ever a token. With `use_vllm` the server decides."""
    use_vllm: bool
    """Completions of the models from vLLM, one after the other, instead of transformers; lighteval judges them
    all the same."""
    base: bool
    """Row of its own for the model that SFT starts from, with SFT's gain over it."""
    gate: Gate
    """Demand on the gain from SFT to GRPO."""

    @property
    def local_data(self) -> list[str]:
        """Files and folders of the tasks that are here."""
        named = [task.data if isinstance(task, LocalTask) else task for task in self.tasks]
        return [path for path in named if PurePosixPath(path).is_relative_to("data/source")]

    @field_validator("tasks")
    @classmethod
    def the_claim_is_about_held_out_problems(cls, tasks: list[str | LocalTask]) -> list[str | LocalTask]:
        if "held_out" not in tasks:
            raise ValueError("held_out is not among them, and the gain is measured on it")
        for task in tasks:
            data = task.data if isinstance(task, LocalTask) else task if task.endswith(".jsonl") else None
            if data is not None and not PurePosixPath(data).is_relative_to("data/source"):
                raise ValueError(f"{data} is not under data/source/, where DVC notices a change")
        names = [task.name if isinstance(task, LocalTask) else PurePosixPath(task).stem for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"one name twice among {', '.join(names)}")
        return tasks

    @model_validator(mode="after")
    def greedy_has_one_sample(self) -> "Evaluate":
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(f"temperature 0 always gives the same completion, so num_samples {self.num_samples} is 1")
        return self


class Report(Section):
    """Contents of the report."""

    num_samples: int = Field(ge=0)
    """Problems that stand in full where no script runs, such as in print. With scripts the page has all."""


class Params(Section):
    """The whole of params.yaml."""

    seed: int = Field(ge=0, lt=2**31)
    """Seed of the data, the weights, the samplers, generation and lighteval."""
    model: Model
    """Model that SFT starts from, or GRPO where `sft` is null."""
    prompts: Prompts
    """Words beside the problem."""
    prepare: Prepare
    """Problems and their split."""
    sft: SFT | None
    """Supervised fine-tuning; null takes the model of `model.name_or_path` as models/sft as it is."""
    verifier: Verifier
    """Limits of the verifier."""
    rewards: Rewards
    """Rewards and their weights."""
    grpo: GRPO
    """Reinforcement learning."""
    evaluate: Evaluate
    """Judgement of the models."""
    report: Report
    """Contents of the report."""
    launch: Launch = Launch()
    """Hardware."""

    def require_sft(self) -> SFT:
        """The section, for what only a training SFT does.

        Raises: ValueError if it is null.
        """
        if self.sft is None:
            raise ValueError("sft is null: it trains nothing")
        return self.sft

    @model_validator(mode="after")
    def sft_has_what_it_needs(self) -> "Params":
        scratch = self.model.name_or_path == "scratch"
        if self.sft is None and scratch:
            raise ValueError("sft null with model.name_or_path scratch: GRPO would start from random weights")
        traces = [s for s in self.prepare.sources if s.use != "grpo" and s.columns and s.columns.solution is not None]
        if self.sft is not None and not traces and not self.prepare.built_in:
            raise ValueError(
                "prepare.columns.solution null, and sft, which imitates solutions; name their column, or set sft to "
                "null and name a fine-tuned model in model.name_or_path"
            )
        if self.evaluate.base and (self.sft is None or scratch):
            other = "sft null, which leaves the base as it is" if self.sft is None else "model.name_or_path scratch"
            raise ValueError(f"evaluate.base with {other}: there is no base to compare SFT with")
        return self

    @model_validator(mode="after")
    def lora_has_no_second_reference(self) -> "Params":
        if self.model.lora is not None and self.grpo.trl.get("sync_ref_model"):
            raise ValueError(
                "grpo.trl.sync_ref_model with model.lora, whose reference is the policy without its adapter"
            )
        return self

    @model_validator(mode="after")
    def vllm_has_room_for_completions(self) -> "Params":
        room = self.launch.vllm.max_model_length
        for key, used, tokens in (
            ("grpo.max_completion_length", self.grpo.use_vllm, self.grpo.max_completion_length),
            ("evaluate.max_new_tokens", self.evaluate.use_vllm, self.evaluate.max_new_tokens),
        ):
            if used and room is not None and room <= tokens:
                raise ValueError(f"launch.vllm.max_model_length {room} has no room for a prompt and {key} {tokens}")
        return self

    @model_validator(mode="after")
    def golds_for_rewards(self) -> "Params":
        verifying = [name for name in ("accuracy", "length", "cosine") if getattr(self.rewards, name) is not None]
        if self.grpo.difficulty is not None:
            verifying.append("grpo.difficulty")
        prompts = [source.columns for source in self.prepare.sources if source.use != "sft"]
        if verifying and not prompts and not self.prepare.built_in:
            raise ValueError("every source of prepare.dataset has `use: sft`, and grpo needs prompts")
        if verifying and any(columns is None or columns.answer is None for columns in prompts):
            raise ValueError(f"prepare.columns.answer is null, and {', '.join(verifying)} need a gold answer")
        return self
