"""`rewards`: the built-in rewards with their parameters, and your own."""

import re
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from posttrain.params.section import Section


class Reward(Section):
    """A reward without parameters of its own."""

    weight: float
    """Factor in the total reward; with 0 the reward is measured and not trained on."""


class ReasoningSteps(Reward):
    steps: int = Field(ge=1, examples=[3])
    """Numbered lines, bullets and ordering words in the thoughts that earn the full score."""


class Cosine(Reward):
    min_value_wrong: float = Field(examples=[-1.0])
    """Score of the shortest wrong answer."""
    max_value_wrong: float = Field(examples=[-0.5])
    """Score of a wrong answer of `max_len` tokens."""
    min_value_correct: float = Field(examples=[0.5])
    """Score of a right answer of `max_len` tokens."""
    max_value_correct: float = Field(examples=[1.0])
    """Score of the shortest right answer."""
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
    """Words of an n-gram."""
    max_penalty: float = Field(le=0, examples=[-1.0])
    """Score of a completion that repeats one n-gram for ever."""
    language: Literal["en", "zh"] = Field(examples=["en"])
    """Language of the completions, which says what a word is."""


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
    """Column with the test cases; `prepare.columns.keep` has to name it too."""
    language: Literal["python"] = Field(examples=["python"])
    """Language of the program."""
    timeout_s: float = Field(gt=0, le=60, examples=[5])
    """CPU seconds for one test case."""
    memory_mib: int = Field(ge=32, examples=[512])
    """Address space of the program."""


class CustomReward(Reward):
    """Your own function. Every further key under it is a parameter that the function gets by name."""

    model_config = ConfigDict(extra="allow")

    function: str = Field(examples=["rewards/brevity.py:brevity"])
    """Place of the function: `path/to/file.py:function` or `module:function`."""
    timeout_s: float = Field(gt=0, le=3600, examples=[10])
    """CPU seconds for one call, and as many asleep (a network's answer, say). A longer call stops the run."""

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
    """Score 1 if math-verify holds the declared answer equal to the gold, else 0."""
    format: Reward | None = None
    """Score 1 if the completion is one `<think>` block and one `<answer>` block and nothing else, else 0."""
    tag_count: Reward | None = None
    """Quarter of the score for each of the four tags that is there exactly once."""
    reasoning_steps: ReasoningSteps | None = None
    """Share of the wanted number of marked steps in the thoughts."""
    length: Reward | None = None
    """Preference for completions shorter than the rest of the group; a wrong answer earns nothing by it (Kimi k1.5)."""
    cosine: Cosine | None = None
    """Half a cosine wave over the length: right answers earn less the longer they are, wrong ones are punished less
    (arXiv:2502.03373)."""
    repetition_penalty: RepetitionPenalty | None = None
    """Negative share of repeated n-grams."""
    soft_overlong_punishment: SoftOverlongPunishment | None = None
    """Punishment of long completions: 0, then falling to -1 at the longest length (DAPO, arXiv:2503.14476)."""
    code_format: CodeFormat | None = None
    """Score 1 for `format` with a code block in the answer, else 0."""
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
