"""What writes completions: an interface, and the one that does it in this process with transformers.

The other is a vLLM server (posttrain/vllm/generator.py). Both get the tokens of prompts, a seed for each completion,
and every token that ends one, and give tokens back. A completion depends on its own seed; the batch that it is in
changes what a model computes in the last bits only.
"""

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

from posttrain.errors import PosttrainError
from posttrain.generation.engine import Sampling, generate
from posttrain.launch.layout import layout
from posttrain.outputs.facts import code_hashes, hardware, versions
from posttrain.params.launch import Launch
from posttrain.params.schema import Dtype, Model

Tokens = list[list[list[int]]]
"""Of each sample of each prompt, the end token included."""
Progress = Callable[[int], None]
"""Is told how many completions have ended since it was last told."""


class Generator(Protocol):
    """One model, ready to write. It loads or starts when it is first asked, and ends with the `with` around it."""

    batch_size: int
    """Prompts to give it at a time."""

    @property
    def identity(self) -> dict[str, Any] | None:
        """What decides its completions besides model, prompts, sampling and seeds; None if that is not known yet."""

    @property
    def versions(self) -> dict[str, str]:
        """For the manifest, once it has written."""

    def write(
        self,
        prompts_P: Sequence[Sequence[int]],
        sampling: Sampling,
        end_tokens: Collection[int],
        seeds_PN: Sequence[Sequence[int]],
        progress: Progress,
    ) -> Tokens: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...


class Transformers:
    """The model of a folder, on the device of `launch`.

    batch_size  prompts at a time
    rows        completions at a time, at most
    """

    def __init__(
        self, folder: Path, dtype: Dtype, launch: Launch, batch_size: int, rows: int, trust_remote_code: bool = False
    ) -> None:
        self.folder, self.dtype, self.launch = folder, dtype, launch
        self.batch_size, self.rows, self.trust_remote_code = batch_size, rows, trust_remote_code

    @property
    def identity(self) -> dict[str, Any]:
        shared = ("device", "threads")
        return {
            "generator": "transformers",
            "dtype": self.dtype,
            "versions": self.versions,
            "code": code_hashes(["posttrain/generation"]),
            **{name: value for name, value in hardware(self.launch).items() if name in shared},
        }

    @property
    def versions(self) -> dict[str, str]:
        return {name: value for name, value in versions().items() if name in ("torch", "transformers")}

    @cached_property
    def model(self) -> Any:
        from posttrain.training.config import settle
        from posttrain.training.models import load_model, require_numbers

        settle(self.launch)
        section = Model.model_construct(
            name_or_path=str(self.folder), revision=None, dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )
        model = load_model(str(self.folder), section)
        require_numbers(model, str(self.folder))
        return model.to(layout(self.launch).device)

    def write(
        self,
        prompts_P: Sequence[Sequence[int]],
        sampling: Sampling,
        end_tokens: Collection[int],
        seeds_PN: Sequence[Sequence[int]],
        progress: Progress,
    ) -> Tokens:
        return generate(self.model, prompts_P, sampling, end_tokens, seeds_PN, rows=self.rows, progress=progress)

    def __enter__(self) -> "Transformers":
        return self

    def __exit__(self, *error: Any) -> None:
        self.__dict__.pop("model", None)


def require_whole(tokens: Sequence[int], end_tokens: Collection[int], max_new_tokens: int, who: str) -> None:
    """Raises: PosttrainError if a completion neither ended nor filled its budget: its answer may have been cut off"""
    ended, ends_inside = tokens[-1:] and tokens[-1] in end_tokens, any(token in end_tokens for token in tokens[:-1])
    if ends_inside or not (ended or len(tokens) == max_new_tokens) or len(tokens) > max_new_tokens:
        raise PosttrainError(
            f"{who} gave a completion of {len(tokens)} tokens that neither ended nor has max_new_tokens "
            f"{max_new_tokens}: {list(tokens)[-8:]}, of the end tokens {sorted(end_tokens)}"
        )
