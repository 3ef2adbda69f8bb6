"""The models that are evaluated: how each is asked, which tokens end its turn, and what its completions say.

Those of the pipeline are base, SFT and GRPO, in the order of training. The base is a row only where params ask for it.
It is evaluated in the form that SFT has it in: in the dtype of params, with the end and padding token of the trained
models. Any other model is asked as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain import paths, templates
from posttrain.errors import InputError
from posttrain.evaluation.tasks import Task
from posttrain.outputs.weight_files import read_json
from posttrain.params.schema import Params
from posttrain.prompts import prompt_messages
from posttrain.text_files import require_regular

ROWS = ("base", "sft", "grpo")
MODELS = {"sft": paths.SFT_MODEL, "grpo": paths.GRPO_MODEL}
"""Those that this pipeline has made."""


def models(params: Params, folder: Path) -> dict[str, Path]:
    """The folder of each row; that of the base is made in `folder`."""
    if not params.evaluate.base:
        return MODELS
    from posttrain.training.given import write_given

    return {"base": write_given(params, folder / "base"), **MODELS}


@dataclass(frozen=True)
class Prompts:
    """The prompts of a task as one model reads them."""

    texts: list[str]
    ids: list[list[int]]
    begun: list[str]
    """What each has opened in the model's place, such as `<think>`."""


@dataclass(frozen=True)
class Subject:
    """A model folder and its tokenizer."""

    name: str
    folder: Path
    system: str | None
    trust_remote_code: bool = False

    @cached_property
    def tokenizer(self) -> Any:
        """Raises: InputError if transformers cannot load it"""
        from transformers import AutoTokenizer

        require_regular(self.folder, "copy or download the model again")
        try:
            found = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)
        except Exception as error:  # noqa: BLE001 - tokenizers, json and transformers share no narrower one
            raise InputError(
                str(self.folder),
                got=f"no tokenizer that can be loaded: {' '.join(str(error).split())[:200]}",
                wanted="the files of a tokenizer beside the weights",
                do="save it into the folder: `AutoTokenizer.from_pretrained(...).save_pretrained(folder)`",
            ) from None
        templates.pin_date(found)
        templates.require_bounded(found, str(self.folder), self.system)
        return found

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a turn: the tokenizer's, and those of the model's own generation_config.json.

        Gemma's template ends a turn with <end_of_turn>, and its tokenizer names <eos>; only the second file has both.
        Raises: InputError if there is none, so that nothing would ever end
        """
        named = self.tokenizer.eos_token_id
        found = {named} if named is not None else set()
        path = self.folder / "generation_config.json"
        content = read_json(path if path.is_file() else self.folder / "config.json")
        listed = content.get("eos_token_id")
        found |= set(listed if isinstance(listed, list) else [] if listed is None else [listed])
        if not found:
            raise InputError(
                str(self.folder),
                got="neither a tokenizer's eos_token nor an eos_token_id in generation_config.json",
                wanted="a token that ends a completion",
                do="name it in tokenizer_config.json",
            )
        return frozenset(int(token) for token in found)

    def prompts(self, task: Task) -> Prompts:
        """Rendered by the chat template; without one, the system message and the problem as plain text."""
        if self.tokenizer.chat_template is None:
            texts = ["\n\n".join(filter(None, (self.system, plain))) for plain in task.plain]
        else:
            texts = [self.render(problem["problem"]) for problem in task.problems]
        ids = self.tokenizer(texts, add_special_tokens=self.tokenizer.chat_template is None)["input_ids"]
        begun = [templates.opened(text, row["problem"]) for text, row in zip(texts, task.problems, strict=True)]
        return Prompts(texts, ids, begun)

    def render(self, problem: str) -> str:
        try:
            return templates.render(self.tokenizer, prompt_messages(problem, self.system))
        except Exception as error:  # noqa: BLE001 - a template is a program of somebody else's: it may raise anything
            raise InputError(
                str(self.folder),
                got=f"a chat template that fails: {' '.join(str(error).split())[:200]}",
                wanted="one that renders a problem" + (" after a system message" if self.system else ""),
                do=templates.MEND,
            ) from None

    def require_room(self, prompts: Prompts, max_new_tokens: int) -> None:
        """Raises: InputError if a prompt and its completion are longer than the model's context"""
        room = read_json(self.folder / "config.json").get("max_position_embeddings")
        longest = max(map(len, prompts.ids), default=0)
        if isinstance(room, int) and longest + max_new_tokens > room:
            raise InputError(
                str(self.folder),
                got=f"prompts of {longest} tokens + max_new_tokens {max_new_tokens} exceed {room} of context",
                wanted="room for prompt and completion",
                do="lower max_new_tokens, or name a model with a longer context",
            )

    def text(self, begun: str, tokens: Sequence[int]) -> str:
        """A completion as a person reads it: what the prompt has opened, and what the model wrote before its end."""
        written = tokens[:-1] if tokens and tokens[-1] in self.end_tokens else tokens
        return begun + str(self.tokenizer.decode(written, skip_special_tokens=True))
