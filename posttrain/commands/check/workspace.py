"""What the preflight can look at: params, and what the stages have made so far."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, Self

from posttrain.errors import InputError
from posttrain.outputs.json_files import RESTORE
from posttrain.outputs.manifest import require_complete
from posttrain.outputs.rows import read_rows
from posttrain.outputs.weight_files import read_json
from posttrain.params.schema import Params
from posttrain.paths import PREPARED, SFT_MODEL
from posttrain.processes.pool import start_server
from posttrain.prompts import prompt_messages
from posttrain.rewards.scoring import Score, Scoring
from posttrain.templates import render, require_turn, training_text

TRACE = ("id", "problem", "completion")
SAMPLE = 512
"""Traces whose tokens are counted; they are ordered by a hash, so these are as good as any."""


class Workspace:
    """What is there to look at; None for what no stage has made yet. Everything is read once, and only if asked for."""

    def __init__(self, params: Params) -> None:
        self.params = params

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        return complete(PREPARED, "prepare")

    @cached_property
    def train(self) -> list[dict[str, Any]] | None:
        return None if self.manifest is None else list(rows_of("train", ("problem",))) or no_rows("train")

    @cached_property
    def sample(self) -> list[dict[str, Any]] | None:
        """The first traces: all of them may be more than memory holds."""
        return None if self.manifest is None else list(islice(rows_of("sft", TRACE), SAMPLE))

    def traces_of(self, ids: Collection[str]) -> Iterator[dict[str, Any]]:
        """All traces of these problems, one after the other."""
        return rows_of("sft", TRACE, ids)

    @cached_property
    def base(self) -> Path | None:
        """The folder of the model that SFT starts from; None if it is made from scratch or not on this machine."""
        name = self.params.model.name_or_path
        if (Path(name) / "config.json").is_file():
            return Path(name)
        return None if name == "scratch" or Path(name).is_dir() else downloaded(name, self.params.model.revision)

    @cached_property
    def sft_model(self) -> Path | None:
        return SFT_MODEL if complete(SFT_MODEL, "sft") is not None else None

    @cached_property
    def base_tokenizer(self) -> Any:
        if self.params.model.name_or_path == "scratch" and self.manifest is not None:
            from posttrain.training.from_scratch import train_tokenizer

            texts = (row["problem"] + "\n" + row["completion"] for row in rows_of("sft", TRACE))
            return train_tokenizer(texts, self.params.model.scratch.vocab_size)
        return self._tokenizer(self.base)

    @cached_property
    def sft_tokenizer(self) -> Any:
        return self._tokenizer(self.sft_model)

    def _tokenizer(self, folder: Path | None) -> Any:
        if folder is None:
            return None
        from posttrain.training.pretrained import load_tokenizer

        return load_tokenizer(str(folder), self.params.model, self.params.prompts.system)

    @cached_property
    def _scoring(self) -> Scoring | InputError:
        """A reward that hangs as its file is loaded does so once, not for each check."""
        try:
            return Scoring(self.params.rewards, self.params.verifier, self.params.launch.reward_workers)
        except InputError as error:
            return error

    @property
    def scoring(self) -> Scoring:
        if isinstance(self._scoring, InputError):
            raise self._scoring
        return self._scoring

    def __enter__(self) -> Self:
        return self

    def warm_up(self, stage: str | None) -> None:
        """Have the processes that score do their imports, and meanwhile load tokenizers here, which takes as long."""
        if self.manifest is not None:
            start_server()
            with suppress(InputError):  # the check that asks for it tells of it
                _ = self.tokenizer("grpo"), stage or self.base_tokenizer

    def __exit__(self, *_: object) -> None:
        if isinstance(scoring := vars(self).get("_scoring"), Scoring):  # it has worker processes
            scoring.close()

    def score(self, texts: Sequence[str], rows: Sequence[dict[str, Any]], group_size: int) -> dict[str, list[Score]]:
        """Every reward of params for one text of each row; `group_size` in a row answer the same problem."""
        completions = self.scoring.completions(texts, rows, [self._tokens(text) for text in texts])
        return self.scoring.scores(completions, group_size)

    def verdicts(self, texts: Sequence[str], row: dict[str, Any]) -> list[bool | None]:
        """The verifier's, whatever rewards params name."""
        return [c.correct for c in self.scoring.completions(texts, [row] * len(texts), [0] * len(texts))]

    def _tokens(self, text: str) -> int:
        """A guess as long as there is no tokenizer: four characters each."""
        tokenizer = self.tokenizer("grpo")
        return len(text) // 4 if tokenizer is None else len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def config(self, stage: str) -> dict[str, Any]:
        """Of the model that a stage starts from, or of its base as long as that is all there is; empty if unknown."""
        folder = self.sft_model if stage == "grpo" and self.sft_model else self.base
        if folder is not None:
            return read_config(folder / "config.json")
        if self.params.model.name_or_path == "scratch":
            return {"model_type": "qwen2", **self.params.model.scratch.model_dump(), "tie_word_embeddings": True}
        return {}

    def tokenizer(self, stage: str) -> Any:
        return self.sft_tokenizer or self.base_tokenizer if stage == "grpo" else self.base_tokenizer

    def positions(self, stage: str) -> int | None:
        value = self.config(stage).get("max_position_embeddings")
        return value if isinstance(value, int) else None

    def prompt_lengths(self, stage: str) -> list[int]:
        problems = [row["problem"] for row in (self.train or [])[:SAMPLE]]
        prompts = [prompt_messages(p, self.params.prompts.system) for p in problems]
        return [self._count(render(self.tokenizer(stage), prompt), stage) for prompt in prompts]

    def trace_lengths(self, stage: str) -> list[tuple[int, int]]:
        """(whole conversation, trace alone) in tokens; counted once, though several checks ask."""
        if stage not in self._trace_lengths:
            self._trace_lengths[stage] = self._count_traces(stage)
        return self._trace_lengths[stage]

    @cached_property
    def _trace_lengths(self) -> dict[str, list[tuple[int, int]]]:
        return {}

    def _count_traces(self, stage: str) -> list[tuple[int, int]]:
        tokenizer, found = self.tokenizer(stage), []
        turn = require_turn(tokenizer, str(self.base or self.params.model.name_or_path), self.params.prompts.system)
        for row in self.sample or []:
            prompt = prompt_messages(row["problem"], self.params.prompts.system)
            asked, said = training_text(tokenizer, turn, prompt, row["completion"])
            whole = self._count(asked + said, stage)
            found.append((whole, whole - self._count(asked, stage)))
        return found

    def _count(self, text: str, stage: str) -> int:
        return len(self.tokenizer(stage)(text, add_special_tokens=False)["input_ids"])


def rows_of(name: str, texts: Sequence[str], ids: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of data/prepared, whose hashes nobody has looked at yet.

    Raises: InputError for one that has no text where it should
    """
    for row in read_rows(PREPARED, name, ids):
        if odd := [key for key in texts if not isinstance(row.get(key), str)]:
            where, got = str(PREPARED / name), f"a row without text in {', '.join(odd)}"
            raise InputError(where, got=got, wanted="rows as prepare wrote them", do=RESTORE)
        yield row


def no_rows(name: str) -> NoReturn:
    raise InputError(str(PREPARED / name), got="no rows", wanted="rows as prepare wrote them", do=RESTORE)


def complete(folder: Path, stage: str) -> dict[str, Any] | None:
    """The manifest of a published folder; None if there is none. What is half there is the stage's to complain of."""
    try:
        return require_complete(folder, stage)
    except InputError:
        return None


def read_config(path: Path) -> dict[str, Any]:
    """Raises: InputError if the file is no JSON object"""
    return read_json(path) if path.is_file() else {}


def downloaded(name: str, revision: str | None) -> Path | None:
    """The folder of a Hub model that is in huggingface_hub's cache already."""
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(name, "config.json", revision=revision) if revision else None
    except ValueError:  # no name that the Hub could have
        return None
    return Path(path).parent if isinstance(path, str) else None
