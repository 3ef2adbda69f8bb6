"""The schema of params.yaml: names, types and ranges. No value has a default here; the recipe is the file.

Reads params.yaml. Imports no torch, so `posttrain`, the flows and the tests can check a file in a moment.
Keys that TRL or transformers know keep their spelling and go to the trainer's config unchanged.
"""

import difflib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stages.errors import InputError

Dtype = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]


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


class Model(Section):
    name_or_path: str = Field(min_length=1)
    """`scratch`, a local folder in transformers' format, or a name on the Hugging Face Hub."""
    revision: str | None
    """Commit of a Hub model. A branch moves, a commit does not."""
    dtype: Dtype
    """Of the weights while training and of the published checkpoints."""
    trust_remote_code: bool
    """Run Python that comes with the model. Off unless you have read it."""
    scratch: ScratchModel
    """Used when `name_or_path` is `scratch`."""


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
    answer: str
    """Holds the gold answer; may be the same column as `solution`, see `answer_pattern`."""


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


class Reward(Section):
    weight: float
    """Factor in the total reward."""


class Rewards(Section):
    """The total reward is the weighted sum. A reward with weight 0 is still measured."""

    accuracy: Reward
    """1 if math-verify holds the declared answer equal to the gold, else 0."""
    format: Reward
    """1 if the completion is one <think> block and one <answer> block and nothing else, else 0."""
    tag_count: Reward
    """A quarter for each of the four tags that is there exactly once."""


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
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"]
    scale_rewards: Literal["none", "group", "batch"]
    """`none`: the advantage is the reward minus the group's mean, as in the tutorial."""
    num_iterations: int = Field(ge=1)
    """Optimizer passes over one batch of completions."""


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
    """Problems per call of generate. It shapes the random draws, so it is part of the result."""
    gate: Gate

    @model_validator(mode="after")
    def greedy_has_one_sample(self) -> "Evaluate":
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(f"temperature 0 always gives the same completion, so num_samples {self.num_samples} is 1")
        return self


class Report(Section):
    num_samples: int = Field(ge=0)
    """Held-out problems shown with the completions of both models."""


class Launch(Section):
    """Hardware. No DVC stage depends on this section, so moving to another machine reruns nothing."""

    device: Literal["auto", "cpu", "cuda"]
    threads: int = Field(ge=0)
    """Threads of one process for matrix work; 0 leaves the choice to torch. Sums in another order differ in the
    last bits, so bit-equal runs need an equal count."""
    micro_batch_size: int = Field(ge=1)
    """Sequences per forward and backward pass, at most; the rest is gradient accumulation."""
    evaluate_timeout_s: int = Field(ge=1)
    """Seconds after which a lighteval process is stopped."""
    checkpoint_every_s: float = Field(ge=0)
    """Seconds of sft and grpo between two checkpoints, which a killed run goes on from; 0 writes one after every step.
    Stretched where writing one takes more than 4 % of that. No checkpoint changes a byte of a result."""


class Params(Section):
    seed: int = Field(ge=0, lt=2**31)
    """Reaches the data, the weights, the samplers, generation and lighteval."""
    model: Model
    prompts: Prompts
    prepare: Prepare
    sft: SFT
    rewards: Rewards
    grpo: GRPO
    evaluate: Evaluate
    report: Report
    launch: Launch


def load_params(path: Path) -> Params:
    """The checked content of a params file.

    Raises: InputError naming every wrong key at once.
    """
    return check_params(read_yaml(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain Python.

    ruamel reads YAML 1.2, where 1e-05 (which `dvc exp run -S` writes) is a float. PyYAML would give a string.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            str(path),
            got=f"no such file in {Path.cwd().name}/",
            wanted="the parameters of the pipeline",
            do="run from the project's root, or `posttrain recipe tiny` after `git checkout params.yaml`",
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            str(path), got=f"byte {error.start} is not UTF-8", wanted="UTF-8 text", do="save it as UTF-8"
        ) from None
    except YAMLError as error:
        raise InputError(
            str(path), got=" ".join(str(error).split()), wanted="valid YAML", do="mend the line it names"
        ) from None
    if not isinstance(data, dict):
        raise InputError(str(path), got=type(data).__name__, wanted="a mapping of sections", do="see recipes/tiny.yaml")
    return data


def check_params(data: dict[str, Any], path: Path) -> Params:
    """Params from plain data; `path` only serves the message.

    Raises: InputError naming every wrong key at once.
    """
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        problems = [_describe(dict(item), data) for item in error.errors()]
    where, got, wanted = zip(*problems, strict=True)
    if len(problems) == 1:
        raise InputError(f"{path}: {where[0]}", got=got[0], wanted=wanted[0], do=f"change {where[0]} in {path}")
    lines = [f"{w}: got {g}; wanted {a}" for w, g, a in problems]
    raise InputError(
        str(path),
        got=f"{len(problems)} wrong keys\n          " + "\n          ".join(lines),
        wanted="every key of the schema once, none besides, each in its range",
        do=f"change these keys in {path}",
    )


def _describe(error: dict[str, Any], data: dict[str, Any]) -> tuple[str, str, str]:
    """Where, got and wanted of one pydantic error."""
    location = [str(part) for part in error["loc"]]
    where = ".".join(location) or "the file"
    if error["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(known)}"
        return where, "an unknown key", hint
    if error["type"] == "missing":
        return where, "no such key", "a value; the schema has no defaults"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        return where, message, "keys that fit together"
    return where, repr(error["input"]), message[0].lower() + message[1:]


def _keys_at(location: list[str]) -> list[str]:
    model: Any = Params
    for part in location:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
