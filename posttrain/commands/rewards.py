"""`posttrain rewards FILE`: what the rewards of params.yaml say about completions that you have.

Reads   a .jsonl or Parquet file with the columns prompt, completion and gold, and tokens and further ones if rewards
        need them; `problem` and `answer` do as well, and prompt and completion may be lists of chat messages; or what
        the stages publish: results/grpo/completions.parquet, results/{sft,grpo,evaluate}/samples.jsonl
Writes  nothing; prints a table and the histogram of each reward
"""

import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from posttrain.commands.completion_rows import no_column, read_completions
from posttrain.data.columns import Row
from posttrain.errors import InputError
from posttrain.judge.answers import declared_answer
from posttrain.params.schema import Params
from posttrain.rewards.scoring import Completion, Score, Scoring, total

NEED_TOKENS = ("cosine", "length", "soft_overlong_punishment")
NEED_GOLD = ("accuracy", "cosine", "length")
BINS = 10
BAR_CHARS = 40


def audit(path: Path, params: Params, tokenizer: str | None) -> None:
    """Score the file and print what came out. Completions of one prompt and gold, of one step or model, are a group.

    Raises: InputError naming the line that cannot be scored.
    """
    rows = read_completions(path)
    require_golds(rows, params, path)
    texts = [row.pop("completion") for row in rows]
    lengths_T = count_tokens(rows, texts, params, tokenizer, path)
    with Scoring(params.rewards, params.verifier, params.launch.reward_workers) as scoring:
        require_readable(rows, scoring, path)
        completions = scoring.completions(texts, rows, lengths_T)
        scores = score_groups(scoring, completions)
        show(completions, scores, scoring.weights)


def require_golds(rows: list[Row], params: Params, path: Path) -> None:
    """Raises: InputError if no row has a gold and a reward needs one."""
    needing = [name for name in NEED_GOLD if name in params.rewards.named()]
    if needing and not any(row["answer"] for row in rows):
        raise no_column(rows[0], "gold", str(path), needing)


def count_tokens(rows: list[Row], texts: list[str], params: Params, tokenizer: str | None, path: Path) -> list[int]:
    """Length of each completion: the column `tokens`, or counted with a tokenizer; 0 where no reward needs it."""
    if all(isinstance(row.get("tokens"), int) for row in rows):
        return [row["tokens"] for row in rows]
    if tokenizer is not None:
        from posttrain.training.pretrained import load_tokenizer

        encode = load_tokenizer(tokenizer, params.model)
        return [len(encode(text, add_special_tokens=False)["input_ids"]) for text in texts]
    needing = [name for name in NEED_TOKENS if name in params.rewards.named()]
    if needing:
        raise InputError(
            str(path),
            got=f"no `tokens` column, which {', '.join(needing)} of params.yaml need",
            wanted="lengths in tokens",
            do="add the column, or --tokenizer with a model folder, such as models/sft",
        )
    return [0] * len(rows)


def require_readable(rows: list[Row], scoring: Scoring, path: Path) -> None:
    golds = [row["answer"] for row in rows]
    for number, (gold, can) in enumerate(zip(golds, scoring.verifier.readable(golds), strict=True), start=1):
        if gold and not can:
            raise InputError(
                f"{path}: row {number}",
                got=f"the gold {gold!r:.80}, which math-verify cannot read",
                wanted="a number or a formula, in LaTeX or plain",
                do="mend or remove the row",
            )


def score_groups(scoring: Scoring, completions: list[Completion]) -> dict[str, list[Score]]:
    """Scores in the order of the file."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, completion in enumerate(completions):
        of = (completion.row.get("step"), completion.row.get("source"))
        groups[(completion.problem, completion.gold, *map(str, of))].append(number)
    scores: dict[str, list[Score]] = {name: [None] * len(completions) for name in scoring.params}
    for name in scoring.params:
        if not scoring.takes_group(name):
            scores[name] = scoring.score(name, completions, 1)
            continue
        for numbers in groups.values():
            found = scoring.score(name, [completions[number] for number in numbers], len(numbers))
            for number, score in zip(numbers, found, strict=True):
                scores[name][number] = score
    return scores


# ---------------------------------------------------------------------------------------------------------------------
# What is printed: numbers only, so that no text of a model reaches the terminal


def show(completions: list[Completion], scores: dict[str, list[Score]], weights: dict[str, float]) -> None:
    problems = len({(completion.problem, completion.gold) for completion in completions})
    declared = sum(declared_answer(completion.text) is not None for completion in completions)
    verdicts = Counter(completion.correct for completion in completions if completion.gold)
    print(f"rewards | {len(completions)} completions of {problems} problems | {declared} declare an answer")
    sources = [completion.row.get("source") for completion in completions]
    for source in dict.fromkeys(source for source in sources if isinstance(source, str)):
        right = [one.correct is True for one, its in zip(completions, sources, strict=True) if its == source]
        print(f"rewards | {source!r:.40}: right {sum(right)} of {len(right)}")
    print(f"rewards | right {verdicts[True]} | wrong {verdicts[False]} | no verdict {verdicts[None]}")
    totals = [total({name: scores[name][number] for name in scores}, weights) for number in range(len(completions))]
    print(f"\n{'reward':26}{'weight':>8}{'mean':>10}{'std':>10}{'min':>10}{'max':>10}{'none':>7}")
    for name, values in scores.items():
        print(table_row(name, f"{weights[name]:g}", values))
    print(table_row("total", "", totals))
    for name, values in {**scores, "total": totals}.items():
        print(f"\n{name}")
        for label, count in histogram([value for value in values if value is not None]):
            print(f"  {label:>20} {count:>7} {'█' * round(BAR_CHARS * count / len(values))}".rstrip())


def table_row(name: str, weight: str, values: list[Score]) -> str:
    known = [value for value in values if value is not None]
    numbers = (
        [statistics.fmean(known), statistics.pstdev(known), min(known), max(known)] if known else [float("nan")] * 4
    )
    return f"{name:26}{weight:>8}{''.join(f'{number:>10.4f}' for number in numbers)}{len(values) - len(known):>7}"


def histogram(values: list[float]) -> list[tuple[str, int]]:
    """Label and count of each value if they are few, else of equal bins between the smallest and the largest."""
    if len(set(values)) <= BINS:
        return [(f"{value:g}", count) for value, count in sorted(Counter(values).items())]
    low, width = min(values), (max(values) - min(values)) / BINS
    counts = Counter(min(BINS - 1, int((value - low) / width)) for value in values)
    return [(f"{low + bin_ * width:.3g} to {low + (bin_ + 1) * width:.3g}", counts[bin_]) for bin_ in range(BINS)]
