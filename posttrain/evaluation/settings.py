"""How models are asked in an evaluation, and the tables that say the same of every backend."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.generation.engine import Sampling
from posttrain.generation.generators import Transformers
from posttrain.params.launch import Launch
from posttrain.params.schema import Dtype, Evaluate, Params


@dataclass(frozen=True)
class Settings:
    """What determines the completions of a model besides its files and the problems."""

    num_samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    batch_size: int
    """Problems that are computed together."""
    seed: int
    system: str | None
    """System message before every problem."""
    dtype: Dtype
    trust_remote_code: bool = False

    @classmethod
    def of(cls, params: Params) -> "Settings":
        return cls(
            **asked(params.evaluate),
            seed=params.seed,
            system=params.prompts.system,
            dtype=params.model.dtype,
            trust_remote_code=params.model.trust_remote_code,
        )

    def seeds(self, problems: int) -> list[list[int]]:
        """Sample i of problem p draws with seed + p x num_samples + i, whichever model and backend."""
        first = range(self.seed, self.seed + problems * self.num_samples, self.num_samples)
        return [[(start + i) % SEEDS for i in range(self.num_samples)] for start in first]

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_new_tokens, self.temperature, self.top_p)

    def in_this_process(self, folder: Path, launch: Launch) -> Transformers:
        """The model of a folder, so asked."""
        rows = max(1, self.batch_size * self.num_samples)
        return Transformers(folder, self.dtype, launch, self.batch_size, rows, self.trust_remote_code)

    def record(self) -> dict[str, Any]:
        return asdict(self)


SEEDS = 2**31
ASKED = ("num_samples", "temperature", "top_p", "max_new_tokens", "batch_size")


def asked(section: Evaluate) -> dict[str, Any]:
    return {name: getattr(section, name) for name in ASKED}
