"""One method with several seeds: what its evaluations say together, and how far they are apart.

Reads   as `posttrain compare`, an evaluation for each seed
Run     posttrain compare --seeds REV REV ..., each `WHAT` or `WHAT:MODEL`

The interval of one evaluation is about two checkpoints on problems like these. It does not include what another seed
would have trained; only runs with other seeds say that. Two or three seeds say it badly: with Student's t they allow
almost any mean. What a few seeds do show together is whether these checkpoints gained, on problems like these: a
problem then has the completions of all of them.
"""

from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from posttrain.commands.compare import Evaluated, default, evaluated, made_by, of_task, parsed, rows_of, share
from posttrain.errors import InputError
from posttrain.evaluation.statistics import Interval, compared, gain, interval, quantile


class Seed(NamedTuple):
    """What the evaluation of one seed holds."""

    after: Evaluated
    before: Evaluated | None
    """Its SFT, if that was evaluated beside it."""

    @property
    def rate(self) -> Interval:
        return interval([share(right) for right in self.after.right.values()], self.after.completions)


def seeds(evaluations: list[str], task: str | None = None) -> None:
    """Print a line for each seed, then mean, spread and range over the seeds, and what they gained together.

    Raises: InputError for fewer than two, or the same one twice
    """
    if len(evaluations) < 2 or len(set(evaluations)) < len(evaluations):
        raise InputError(
            "posttrain compare --seeds",
            got=f"{len(evaluations)} evaluations, {len(set(evaluations))} different",
            wanted="two at least, one for each seed",
            do="name a commit or an experiment for each: `dvc exp run -S seed=2`",
        )
    width = max(map(len, evaluations))
    found = [seed_of(text, task) for text in evaluations]
    pairs = [(one.before, one.after) for one in found if one.before is not None]
    gains = []
    for text, one in zip(evaluations, found, strict=True):
        rate = one.rate
        told = f"pass@1 {rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
        if one.before is not None:
            over = gained(one.before, one.after)
            gains.append(over.mean)
            told += f" | over SFT {over.mean:+.3f} [{over.low:+.3f}, {over.high:+.3f}]"
        print(f"seeds | {text:{width}} {told}")
    rates = [one.rate for one in found]
    print(f"seeds | pass@1 {together([rate.mean for rate in rates])}")
    if len(pairs) == len(found):
        print(f"seeds | over SFT {together(gains, '+')}")
    print("seeds | the interval of one evaluation is about its checkpoints and leaves out the spread between seeds")
    if len(pairs) == len(found):
        print(f"seeds | {of_these_checkpoints(pairs)}")
    outside = [text for text, rate in zip(evaluations, rates, strict=True) if excludes(rate, rates)]
    if outside:
        print(f"seeds | the interval of {', '.join(outside)} holds no other seed's pass@1")


def seed_of(text: str, task: str | None) -> Seed:
    after = evaluated(text, task)
    what, model = parsed(text)
    row = of_task(list(rows_of(what)), text, task)[0]
    alone = "sft" not in made_by(row) or (model or default(row, text)) == "sft"
    return Seed(after, None if alone else evaluated(f"{what}:sft", task))


def gained(before: Evaluated, after: Evaluated) -> Interval:
    before_P, after_P = ([share(right) for right in model.right.values()] for model in (before, after))
    return gain(before_P, after_P, after.completions)


def of_these_checkpoints(pairs: list[tuple[Evaluated, Evaluated]]) -> str:
    """The verdict on the gain of all seeds together, on the problems that all have."""
    problems = [problem for problem in pairs[0][0].right if all(problem in after.right for _, after in pairs)]
    if not problems:
        return "these checkpoints have no problem in common"
    before_P, after_P = (
        [share([right for pair in pairs for right in pair[side].right[problem]]) for problem in problems]
        for side in (0, 1)
    )
    completions = sum(after.completions for _, after in pairs)
    found = compared(before_P, after_P, completions)
    return f"these checkpoints together: {found.verdict} over SFT {found.claim(len(problems), completions)}"


def together(values: list[float], sign: str = "") -> str:
    """Mean, standard deviation between seeds, range, and a 95 % interval of the mean by Student's t."""
    count, spread = len(values), stdev(values)
    half = quantile(count) * spread / sqrt(count)
    mean = fmean(values)
    least = -1.0 if sign else 0.0
    limits = f"[{max(least, mean - half):{sign}.3f}, {min(1.0, mean + half):{sign}.3f}]"
    reach = f"{min(values):{sign}.3f} to {max(values):{sign}.3f}"
    return f"{mean:{sign}.3f} {limits} over {count} seeds, standard deviation between them {spread:.3f}, {reach}"


def excludes(rate: Interval, rates: list[Interval]) -> bool:
    return all(other is rate or not rate.low <= other.mean <= rate.high for other in rates)
