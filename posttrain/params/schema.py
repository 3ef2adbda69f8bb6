"""The schema of params.yaml: names, types and ranges. No value has a default here; the recipe is the file.

Reads params.yaml. Imports no torch, so `posttrain`, the flows and the tests can check a file in a moment.
Keys that TRL or transformers know keep their spelling and go to the trainer's config unchanged.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Dtype = Literal["float32", "bfloat16"]


Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]


Strategy = Literal["auto", "cpu", "single", "ddp", "zero2", "zero3", "fsdp"]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class ScratchModel(Section):
    """A Qwen2 with random weights and a byte-level BPE trained on the prepared text."""

    vocab_size: int = Field(ge=300)
    """Upper bound on the tokenizer's size; byte-level BPE needs 256 bytes, the special tokens and the tags."""
    hidden_size: int = Field(ge=8)
    intermediate_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
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
    """Their product is scaled by alpha / r."""
    dropout: float = Field(ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str]
    """Names of linear layers, such as [q_proj, v_proj]; `all-linear` for all but the output layer."""
    quantize_4bit: bool
    """QLoRA: the weights beside the adapters in 4 bits while they train. Needs a CUDA GPU and bitsandbytes."""

    @field_validator("target_modules")
    @classmethod
    def not_the_output_layer(cls, names: str | list[str]) -> str | list[str]:
        if not names:
            raise ValueError("the name of a linear layer at least, or all-linear")
        if "lm_head" in names or "embed_tokens" in names:
            raise ValueError("linear layers between embedding and output; TRL reads the output weights past an adapter")
        return names


class Model(Section):
    name_or_path: str = Field(min_length=1)
    """`scratch`, a local folder in transformers' format, or a name on the Hugging Face Hub."""
    revision: str | None
    """Commit of a Hub model. A branch moves, a commit does not."""
    dtype: Dtype
    """Of the weights while training and of the published checkpoints."""
    trust_remote_code: bool
    """Run Python that comes with the model. Off unless you have read it."""
    lora: Lora | None
    """null trains all weights."""
    scratch: ScratchModel
    """Used when `name_or_path` is `scratch`."""

    @model_validator(mode="after")
    def there_is_something_to_quantize(self) -> "Model":
        if self.lora is not None and self.lora.quantize_4bit and self.name_or_path == "scratch":
            raise ValueError("lora.quantize_4bit with name_or_path scratch: weights that are drawn here are not loaded")
        return self


class Prompts(Section):
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
    max_solution: int = Field(ge=1, le=99)
    max_constant: int = Field(ge=1, le=99)
    traces_per_problem: int = Field(ge=1)
    """Teacher traces for each training problem, right and wrong ones mixed."""
    teacher: Teacher


class Columns(Section):
    """Names in the source data. Equations do not use them."""

    problem: str
    solution: str
    """The reasoning that SFT imitates."""
    answer: str | None
    """Holds the gold answer; may be the same column as `solution`, see `answer_pattern`. null for problems that no
    answer checks, such as programs with test cases; lighteval cannot judge these."""
    keep: list[str]
    """Further columns that rewards need, carried along as they are."""


class Prepare(Section):
    dataset: str = Field(min_length=1)
    """`equations` (built in), a .jsonl file, a folder of <split>.jsonl files or of `save_to_disk`, or a Hub name."""
    config: str | None
    """Configuration of a Hub dataset."""
    revision: str | None
    """Commit of a Hub dataset."""
    train_split: str
    test_split: str | None
    """null holds out `test_frac` of the problems instead, chosen by a hash of the problem's text."""
    test_frac: float = Field(gt=0, lt=1)
    max_train: int | None = Field(ge=1)
    """Problems kept for training, null for all. A hash of their text chooses them, not the order of the file."""
    max_test: int | None = Field(ge=1)
    columns: Columns
    answer_pattern: str | None
    """Regular expression; group 1 in the answer column is the gold. The match is cut out of the solution."""
    drop_pattern: str | None
    """Regular expression; every match is cut out of the solution."""
    equations: Equations

    @field_validator("answer_pattern", "drop_pattern")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
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
    lr_scheduler_type: Schedule
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    logging_steps: int = Field(ge=1)
    """Steps per line on the console and per row of the curve."""

    @model_validator(mode="after")
    def something_is_logged(self) -> "Optimisation":
        if self.logging_steps > self.max_steps:
            raise ValueError(f"logging_steps {self.logging_steps} is more than max_steps {self.max_steps}")
        return self


class SFT(Optimisation):
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
    """A run stops when more than this share of its last 512 completions had no verdict."""


class Reward(Section):
    weight: float
    """Factor in the total reward; with 0 the reward is measured and not trained on."""


class ReasoningSteps(Reward):
    steps: int = Field(ge=1, examples=[3])
    """Numbered lines, bullets and ordering words in the thoughts that earn the full score."""


class Cosine(Reward):
    min_value_wrong: float = Field(examples=[-1.0])
    max_value_wrong: float = Field(examples=[-0.5])
    min_value_correct: float = Field(examples=[0.5])
    max_value_correct: float = Field(examples=[1.0])
    max_len: int = Field(ge=1, examples=[1000])
    """Tokens at which the half wave ends; longer completions score as this one."""

    @model_validator(mode="after")
    def short_and_right_is_best(self) -> "Cosine":
        if self.min_value_wrong > self.max_value_wrong or self.min_value_correct > self.max_value_correct:
            raise ValueError(
                "a min_value above its max_value; short wrong answers would be paid for, long right ones too"
            )
        return self


class RepetitionPenalty(Reward):
    ngram_size: int = Field(ge=1, examples=[3])
    max_penalty: float = Field(le=0, examples=[-1.0])
    """Score of a completion that repeats one n-gram for ever."""
    language: Literal["en", "zh"] = Field(examples=["en"])


class SoftOverlongPunishment(Reward):
    max_completion_len: int = Field(ge=1, examples=[16384])
    """Tokens up to which a completion is not wholly punished; beyond it the score is -1."""
    soft_punish_cache: int = Field(ge=0, examples=[4096])
    """Tokens before that over which the score falls from 0."""

    @model_validator(mode="after")
    def the_cache_fits(self) -> "SoftOverlongPunishment":
        if self.soft_punish_cache > self.max_completion_len:
            raise ValueError(
                f"soft_punish_cache {self.soft_punish_cache} is more than max_completion_len {self.max_completion_len}"
            )
        return self


class CodeFormat(Reward):
    language: str = Field(pattern=r"^[a-z+#]+$", examples=["python"])
    """Name after the three backticks of the code block."""


class Code(Reward):
    column: str = Field(min_length=1, examples=["verification_info"])
    """Holds the test cases; `prepare.columns.keep` has to name it too."""
    language: Literal["python"] = Field(examples=["python"])
    timeout_s: float = Field(gt=0, le=60, examples=[5])
    """CPU seconds for one test case."""
    memory_mib: int = Field(ge=32, examples=[512])
    """Address space of the program."""


class CustomReward(Reward):
    """Your own function. Every further key under it is a parameter that the function gets by name."""

    model_config = ConfigDict(extra="allow")

    function: str = Field(examples=["rewards/brevity.py:brevity"])
    """`path/to/file.py:function` or `module:function`."""
    timeout_s: float = Field(gt=0, le=3600, examples=[10])
    """CPU seconds for one completion; ten times as many by the clock on the wall. A longer call stops the run."""

    @field_validator("function")
    @classmethod
    def names_a_function(cls, function: str) -> str:
        if not re.fullmatch(r"[^:]+:[A-Za-z_]\w*", function):
            raise ValueError("`path/to/file.py:function` or `module:function`")
        return function

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Rewards(Section):
    """The total reward is the weighted sum. A reward that is not named here is not measured.

    Names that are none of these fields are your own rewards.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, CustomReward]

    accuracy: Reward | None = None
    """1 if math-verify holds the declared answer equal to the gold, else 0."""
    format: Reward | None = None
    """1 if the completion is one <think> block and one <answer> block and nothing else, else 0."""
    tag_count: Reward | None = None
    """A quarter for each of the four tags that is there exactly once."""
    reasoning_steps: ReasoningSteps | None = None
    """Share of the wanted number of marked steps in the thoughts."""
    length: Reward | None = None
    """Shorter than the rest of the group is better; a wrong answer earns nothing by it (Kimi k1.5)."""
    cosine: Cosine | None = None
    """Right answers earn less the longer they are, wrong ones are punished less (arXiv:2502.03373)."""
    repetition_penalty: RepetitionPenalty | None = None
    """Negative share of repeated n-grams."""
    soft_overlong_punishment: SoftOverlongPunishment | None = None
    """0, then falling to -1 at the longest length (DAPO, arXiv:2503.14476)."""
    code_format: CodeFormat | None = None
    """1 for `format` with a code block in the answer, else 0."""
    code: Code | None = None
    """Share of test cases that the program in the answer passes, in a sandbox."""

    @model_validator(mode="after")
    def names_are_columns(self) -> "Rewards":
        if not self.named():
            raise ValueError("no reward at all; accuracy and format are the tutorial's")
        for name in self.__pydantic_extra__ or {}:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "total":
                raise ValueError(f"a reward named {name!r}; a name is small letters, digits and _, and not `total`")
        return self

    def named(self) -> dict[str, Reward]:
        """The rewards that params name, built-in ones first, each in the order of this class or of the file."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: reward for name, reward in {**own, **(self.__pydantic_extra__ or {})}.items() if reward is not None
        }


class Rule(Section):
    """One rule of the health monitor. `rollback` goes back to weights from before the sickness and halves the learning
    rate; `stop` ends the training early and publishes what there is."""

    action: Literal["warn", "stop", "rollback", "off"]


class Above(Rule):
    above: float = Field(gt=0)
    """The mean over `window` rows that is too high."""


class Below(Rule):
    below: float = Field(gt=0)
    """The mean over `window` rows that is too low."""


class BelowFrac(Rule):
    below_frac: float = Field(gt=0, lt=1)
    """Share of an earlier mean, of the first `window` rows or of the best, that is too little."""


class ConstantReward(Rule):
    zero_std_frac: float = Field(gt=0, le=1)
    """Share of groups without any difference in reward from which nothing is left to learn."""


class FlatAccuracy(Rule):
    format_above: float = Field(gt=0, le=1)
    accuracy_below: float = Field(gt=0, le=1)
    gain: float = Field(gt=0)
    """Accuracy that gained less than this over `rows` rows is flat."""
    rows: int = Field(ge=1)


class Truncation(Rule):
    above: float = Field(gt=0, le=1)
    """Share of completions cut off at `max_completion_length` that is too high whatever came before."""
    growth: float = Field(gt=0, le=1)
    """Rise of that share since the first `window` rows that is too much while completions grow longer."""


class ProbeFalls(Rule):
    drop: float = Field(gt=0, le=1)
    """Fall of `probe/accuracy` below its best, at two probes in a row, while the reward did not fall."""


class Health(Section):
    """What is sick in a curve, and what to do then. Thresholds are for unscaled advantages of rewards within [0, 1]."""

    window: int = Field(ge=2)
    """Rows of the curve that a rule averages; no rule but `not_finite` speaks before that many."""
    solved_accuracy: float = Field(gt=0, le=1)
    """From this training accuracy on, equal rewards and a settled policy are success."""
    max_rollbacks: int = Field(ge=1)
    """A finding after that many rollbacks stops the run."""
    not_finite: Rule
    exploding_gradients: Above
    kl_divergence: Above
    low_advantage_std: Below
    high_advantage_std: Above
    constant_reward: ConstantReward
    reward_collapse: BelowFrac
    flat_accuracy: FlatAccuracy
    entropy_collapse: BelowFrac
    truncation: Truncation
    probe_falls: ProbeFalls
    verifier_timeouts: Above
    """Share of a step's completions on which the verifier reached no verdict."""


class Probe(Section):
    """Greedy completions of a few problems of the training split that no step trains on, scored by accuracy alone."""

    problems: int = Field(ge=0)
    """Chosen by a hash of their text and kept out of training; 0 for no probe."""
    every_steps: int = Field(ge=1)
    """A multiple of `logging_steps`."""


class DynamicSampling(Section):
    """Groups whose completions all got the same reward teach nothing; other problems take their place (DAPO)."""

    max_rounds: int = Field(ge=0)
    """Further rounds of generation for one batch, at most; 0 trains on every group as it came."""


class GRPO(Optimisation):
    prompts_per_step: int = Field(ge=1)
    """Distinct problems per optimizer step over all processes."""
    num_generations: int = Field(ge=2)
    """Completions per problem (G). Their mean reward is the baseline, so one alone would carry no signal."""
    max_completion_length: int = Field(ge=1)
    """Tokens; a completion that reaches it is cut off without an end token."""
    temperature: float = Field(gt=0)
    top_p: float = Field(gt=0, le=1)
    beta: float = Field(ge=0)
    """Weight of the KL divergence to the SFT model; the tutorial's kl_penalty."""
    epsilon: float = Field(gt=0, lt=1)
    """Clip range of the probability ratio; the tutorial's clip_range."""
    epsilon_high: float | None = Field(gt=0)
    """Clip range upwards where it is another (DAPO: 0.28); null for `epsilon`. With `loss_type: cispo` it is the
    highest ratio itself, such as 5."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
    """docs/objective.md has the formula of each."""
    importance_sampling_level: Literal["token", "sequence"]
    """`sequence`: one ratio for a completion, the geometric mean of its tokens' (GSPO)."""
    mask_truncated_completions: bool
    """Learn nothing from completions without an end token."""
    scale_rewards: Literal["none", "group", "batch"]
    """`none`: the advantage is the reward minus the group's mean, as in the tutorial."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"]
    """`sum_then_normalize`: the advantage is of the weighted sum. `normalize_then_sum`: of each reward by itself, then
    summed (GDPO), whatever `scale_rewards` says."""
    num_iterations: int = Field(ge=1)
    """Optimizer passes over one batch of completions."""
    use_vllm: bool
    """Completions from vLLM instead of transformers, as `launch.vllm` says; another sampler draws others."""
    trl: dict[str, Any]
    """Further options of TRL's GRPOConfig, under TRL's names: `{delta: 4.0, sapo_temperature_neg: 1.05}`. What
    posttrain sets itself is refused; names and types are checked against the installed TRL."""
    dynamic_sampling: DynamicSampling
    probe: Probe
    publish: Literal["last", "best"]
    """`best`: the weights of the step with the highest `probe/accuracy`, the latest of equals."""
    keep_completions_steps: int = Field(ge=0)
    """Every so many steps, all completions with rewards and advantages go to results/grpo/completions.parquet; 0 keeps
    none."""
    health: Health

    @model_validator(mode="after")
    def the_objective_is_one(self) -> "GRPO":
        if self.loss_type == "cispo" and self.epsilon_high is None:
            raise ValueError(
                "loss_type cispo without epsilon_high, which is the highest ratio there: TRL would take epsilon, and "
                f"cap every ratio at {self.epsilon:g}; 5.0 is usual"
            )
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
    min_gain: float | None
    """Smallest gain in pass@1 from SFT to GRPO that `posttrain gate` accepts; null switches the gate off."""


class Evaluate(Section):
    num_samples: int = Field(ge=1)
    """Completions per problem. pass@1 is the mean over them, maj@n the majority vote."""
    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Problems per call of generate. It shapes the random draws, so it is part of the result. With `use_vllm` it only
    bounds how many problems are with the server at a time."""
    use_vllm: bool
    """Completions of both models from vLLM, one after the other, instead of transformers; lighteval judges them
    all the same."""
    gate: Gate

    @model_validator(mode="after")
    def greedy_has_one_sample(self) -> "Evaluate":
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(f"temperature 0 always gives the same completion, so num_samples {self.num_samples} is 1")
        return self


class Report(Section):
    num_samples: int = Field(ge=0)
    """Held-out problems shown with the completions of both models."""


class VLLM(Section):
    """Where vLLM runs; read only if `grpo.use_vllm` or `evaluate.use_vllm` is true. TRL's names without `vllm_`."""

    mode: Literal["colocate", "server"]
    """Of grpo. `colocate`: in the training processes, on their GPUs. `server`: a process on GPUs of its own. evaluate
    always uses a server, and starts one for each model."""
    gpus: list[int]
    """CUDA numbers of the GPUs of a server that posttrain starts; empty for vLLM's CPU build, which can only
    evaluate."""
    tensor_parallel_size: int = Field(ge=1)
    """GPUs that share one copy of the model: all of `gpus`. With `colocate` also training processes that do."""
    gpu_memory_utilization: float = Field(gt=0, le=1)
    """Share of a GPU's memory for weights and cache: about 0.3 beside training, 0.9 on GPUs of its own."""
    max_model_length: int | None = Field(ge=2)
    """Tokens of prompt and completion for which there is room; null for the model's context length."""
    enable_sleep_mode: bool
    """With `colocate`: weights and cache leave the GPU while the optimizer works."""
    server_base_url: str | None = Field(pattern=r"^https?://[^/]+[^?#]*[^/?#]$")
    """Of a server that runs already, for grpo with `server`; it is used and not stopped. null starts one."""
    server_host: str = Field(min_length=1)
    """Interface of a server that posttrain starts. Whoever reaches it can replace the model's weights."""
    server_port: int = Field(ge=1, lt=2**16)
    group_port: int = Field(ge=1, lt=2**16)
    """Over which grpo sends new weights to the server."""
    server_timeout: float = Field(gt=0)
    """Seconds until a server has to be ready: it loads the model and compiles."""
    python: str | None
    """Interpreter of the environment that the server runs in, such as .venv-vllm/bin/python; null for this one."""

    @property
    def starts_server(self) -> bool:
        """Whether a grpo that generates with vLLM starts a server for it."""
        return self.mode == "server" and self.server_base_url is None

    @model_validator(mode="after")
    def the_gpus_share_one_copy(self) -> "VLLM":
        if len(set(self.gpus)) != len(self.gpus) or any(gpu < 0 for gpu in self.gpus):
            raise ValueError(f"gpus {self.gpus}: each number once, from 0")
        if self.tensor_parallel_size != max(1, len(self.gpus)):
            raise ValueError(f"tensor_parallel_size {self.tensor_parallel_size} with gpus {self.gpus}: one for each")
        if self.server_port == self.group_port:
            raise ValueError(f"server_port and group_port are both {self.server_port}")
        return self


class Launch(Section):
    """Hardware. No DVC stage depends on this section, so moving to another machine reruns nothing."""

    device: Literal["auto", "cpu", "cuda"]
    strategy: Strategy
    """How sft and grpo share the work between processes. `auto`: one process alone; zero2 on several GPUs, ddp on
    several CPU processes. `cpu` is one process on the CPU, `single` one on the device."""
    processes: Literal["auto"] | Annotated[int, Field(ge=1)]
    """Of sft and grpo, on all machines together. `auto` is one for each GPU, and one without GPUs."""
    machines: int = Field(ge=1)
    """Each runs the same command in the same folder, on a file system that they share."""
    machine_rank: int = Field(ge=0)
    """Number of this machine, from 0; set it by POSTTRAIN_LAUNCH_MACHINE_RANK."""
    main_address: str = Field(pattern=r"^[\w.\-]+:\d+$|^\[[0-9a-fA-F:]+\]:\d+$", examples=["10.0.0.1:29500"])
    """Host and port of machine 0, where several find each other. One machine takes a free port of its own."""
    mixed_precision: Literal["bf16"] | None
    """bf16: matrix work in bfloat16. Under zero2 and zero3 the weights are bfloat16 too, beside a float32 copy in the
    optimizer; under the others `model.dtype` is theirs."""
    offload: Literal["none", "optimizer", "all"]
    """What zero2 and zero3 keep in the machine's memory instead of the GPU's: optimizer states, or (zero3) weights too.
    """
    activation_checkpointing: bool
    """Keep few activations and compute the others again in the backward pass: less memory, a third more work."""
    threads: int = Field(ge=0)
    """Threads of one process for matrix work; 0 leaves the choice to torch. Sums in another order differ in the
    last bits, so bit-equal runs need an equal count."""
    micro_batch_size: int = Field(ge=1)
    """Sequences per forward and backward pass, at most; the rest is gradient accumulation."""
    reward_workers: int = Field(ge=1)
    """Processes that verify answers and run your own rewards."""
    evaluate_timeout_s: int = Field(ge=1)
    """Seconds after which a lighteval process is stopped; with `evaluate.use_vllm` also those for one model's
    completions."""
    report_to: list[Literal["tensorboard", "wandb", "trackio"]]
    """Trackers that sft and grpo log to, beside the curve; their files go to .posttrain/logs/. Each is a package that
    you install. wandb sends what it gets to its servers unless WANDB_MODE=offline."""
    checkpoint_every_s: float = Field(ge=0)
    """Seconds of sft and grpo between two checkpoints, which a killed run goes on from; 0 writes one after every step.
    Stretched where writing one takes more than 4 % of that. No checkpoint changes a byte of a result."""
    vllm: VLLM


class Params(Section):
    seed: int = Field(ge=0, lt=2**31)
    """Reaches the data, the weights, the samplers, generation and lighteval."""
    model: Model
    prompts: Prompts
    prepare: Prepare
    sft: SFT
    verifier: Verifier
    rewards: Rewards
    grpo: GRPO
    evaluate: Evaluate
    report: Report
    launch: Launch

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
        if self.prepare.columns.answer is None and self.prepare.dataset != "equations" and verifying:
            raise ValueError(
                f"prepare.columns.answer is null, and {', '.join(verifying)} of `rewards` need a gold answer"
            )
        return self
