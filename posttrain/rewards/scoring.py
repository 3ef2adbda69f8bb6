"""Verifiable rewards: pure functions of a completion (or of a group), one table of them, and what scores a batch.

A reward's name is its key in the `rewards` section of params.yaml, its metric `reward/<name>` and its function here.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from posttrain.errors import InputError
from posttrain.judge.answers import declared_answer
from posttrain.judge.verifier import Verifier
from posttrain.outputs.manifest import sha256
from posttrain.params import schema
from posttrain.params.rewards import CustomReward, Rewards
from posttrain.processes.pool import Closing, Pool
from posttrain.prompts import completion_text
from posttrain.rewards.accuracy import accuracy
from posttrain.rewards.code import code
from posttrain.rewards.completion import Completion, Score
from posttrain.rewards.custom import Custom
from posttrain.rewards.form import code_format, format, reasoning_steps, tag_count
from posttrain.rewards.size import cosine, length, repetition_penalty, soft_overlong_punishment

__all__ = ["BUILT_IN", "Completion", "Score", "Scoring", "Verifier", "judge", "total"]

OF_ONE: dict[str, Callable[..., Score]] = {
    "accuracy": accuracy,
    "format": format,
    "tag_count": tag_count,
    "reasoning_steps": reasoning_steps,
    "cosine": cosine,
    "repetition_penalty": repetition_penalty,
    "soft_overlong_punishment": soft_overlong_punishment,
    "code_format": code_format,
    "code": code,
}
OF_A_GROUP: dict[str, Callable[..., list[Score]]] = {"length": length}
BUILT_IN = {**OF_ONE, **OF_A_GROUP}


class Scoring(Closing):
    """The rewards of params.yaml, ready to score batches. It owns worker processes: close it, or use `with`.

    Raises: InputError if a reward of the user's own cannot be used.
    """

    def __init__(self, rewards: Rewards, verifier: schema.Verifier, workers: int) -> None:
        self.params = rewards.named()
        self.weights = {name: reward.weight for name, reward in self.params.items()}
        self.workers = workers
        self.verifier = Verifier(verifier.timeout_s, verifier.max_timeout_frac, workers)
        self.pool = Pool(workers)  # of the user's functions, which may need more memory than an answer
        try:
            self.custom = {
                name: Custom(name, reward, self.pool)
                for name, reward in self.params.items()
                if isinstance(reward, CustomReward)
            }
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.verifier.close()
        self.pool.close()

    def completions(
        self, texts: Sequence[str], rows: Sequence[dict[str, Any]], tokens: Sequence[int]
    ) -> list[Completion]:
        """What the rewards look at; each declared answer is verified, once in a run."""
        golds = [row.get("answer", "") for row in rows]
        asked = [(gold, declared_answer(text)) for text, gold in zip(texts, golds, strict=True) if gold]
        verdicts = iter(self.verifier.verdicts(asked))
        return [
            Completion(text, gold, row.get("problem", ""), length_T, next(verdicts) if gold else None, row)
            for text, gold, row, length_T in zip(texts, golds, rows, tokens, strict=True)
        ]

    def takes_group(self, name: str) -> bool:
        return self.custom[name].takes_group if name in self.custom else name in OF_A_GROUP

    def score(self, name: str, completions: Sequence[Completion], group_size: int) -> list[Score]:
        """Scores of one reward, in order. `group_size` completions in a row answer the same problem.

        Raises: InputError if the user's own function fails; ValueError from `code` naming what its test cases lack.
        """
        starts = range(0, len(completions), group_size)
        groups = [list(completions[start : start + group_size]) for start in starts]
        if name in self.custom:
            own = self.custom[name]
            asked = groups if own.takes_group else [[completion] for completion in completions]
            return [score for scores in own(asked) for score in scores]
        parameters = self.params[name].model_dump(exclude={"weight"})
        if name in OF_A_GROUP:
            return [score for group in groups for score in OF_A_GROUP[name](group, **parameters)]
        with ThreadPoolExecutor(self.workers) as threads:  # `code` waits for its programs; the others are quick
            return list(threads.map(functools.partial(OF_ONE[name], **parameters), completions))

    def scores(self, completions: Sequence[Completion], group_size: int) -> dict[str, list[Score]]:
        """Scores of every reward."""
        return {name: self.score(name, completions, group_size) for name in self.params}

    def dry_run(self, rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[Score], list[Score]]]:
        """Scores of the gold and of an empty completion for each row, so that what must fail, fails before training.

        Raises: InputError as `score` does, and naming the row whose data a reward cannot use.
        """
        texts = [completion_text("…", row["answer"]) for row in rows]
        try:
            golds = [row["answer"] for row in rows if row["answer"]]
            for gold, can in zip(golds, self.verifier.readable(golds), strict=True):
                if not can:
                    raise ValueError(f"math-verify cannot read the gold answer {gold!r}")
            right = self.scores(self.completions(texts, rows, [8] * len(rows)), 1)
            wrong = self.scores(self.completions([""] * len(rows), rows, [0] * len(rows)), 1)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                "a dry run of the rewards on data/prepared",
                got=str(error),
                wanted="rows that every reward can score",
                do="mend the data, prepare.columns.keep or the `rewards` section",
            ) from error
        return {name: (right[name], wrong[name]) for name in self.params}

    def sources(self) -> dict[str, dict[str, str]]:
        """The user's own functions and the hashes of their files, for the manifest."""
        return {
            name: {"function": own.params.function, "sha256": sha256(own.file)} for name, own in self.custom.items()
        }


def judge(texts: Sequence[str], golds: Sequence[str], verifier: Verifier) -> list[dict[str, Score]]:
    """Accuracy and format of completions, whatever rewards a model was trained with."""
    asked = [(gold, declared_answer(text)) for text, gold in zip(texts, golds, strict=True)]
    verdicts = verifier.verdicts(asked)
    judged = [Completion(text, correct=verdict) for text, verdict in zip(texts, verdicts, strict=True)]
    return [{"accuracy": accuracy(completion), "format": format(completion)} for completion in judged]


def total(scores: dict[str, Score], weights: dict[str, float]) -> Score:
    """The weighted sum; the tutorial's 1.0 * accuracy + 0.1 * format + 0.05 * tag_count. None if a score is."""
    known = [score for score in scores.values() if score is not None]
    if len(known) < len(scores):
        return None
    return sum(weights[name] * score for name, score in zip(scores, known, strict=True))
