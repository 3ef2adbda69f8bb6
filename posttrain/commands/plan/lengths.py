"""How long prompts and solutions are in data/prepared, for the model that params name. No torch before it is asked."""

from dataclasses import dataclass
from statistics import median

from posttrain.commands.check.models import changes_since
from posttrain.commands.check.workspace import Workspace
from posttrain.params.schema import Params
from posttrain.paths import PREPARED


@dataclass(frozen=True)
class Lengths:
    """Tokens, of the first problems and traces: they are in the order of a hash, so these are as good as any."""

    prompts: list[int]
    traces: list[int]

    @property
    def longest(self) -> int:
        return max(self.prompts)

    def __str__(self) -> str:
        asked = f"the longest of {len(self.prompts)} in {PREPARED}, half have {median(self.prompts):.0f} or fewer"
        if not self.traces:
            return asked
        solved = (
            f"{len(self.traces)} solutions there have up to {max(self.traces)}, half {median(self.traces):.0f} or fewer"
        )
        return f"{asked}; {solved}"


def counted(params: Params) -> Lengths | str:
    """Lengths by the tokenizer of the model that SFT starts from; or why the default stands.

    Raises: InputError if that tokenizer cannot be used
    """
    work = Workspace(params)
    if not work.train:
        return f"a default; `posttrain prepare` makes {PREPARED}, whose prompts are counted"
    if changes := changes_since(PREPARED, params):
        return f"a default; {PREPARED} was made with {changes[0]}"
    if work.base_tokenizer is None:
        return f"a default; {params.model.name_or_path} is not on this machine"
    return Lengths(work.prompt_lengths("sft"), [trace for _, trace in work.trace_lengths("sft")])
