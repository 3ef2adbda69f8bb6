"""One method with several seeds: what its evaluations say together, and how far they are apart.

Reads   as `posttrain compare`, an evaluation for each seed
Run     posttrain compare --seeds REV REV ..., each `WHAT` or `WHAT:MODEL`

The interval of one evaluation is about two checkpoints on problems like these. It does not include what another seed
would have trained; only runs with other seeds say that.
"""

from math import sqrt
from statistics import fmean, stdev

from posttrain.commands.compare import default, evaluated, made_by, of_task, parsed, rows_of, share
from posttrain.errors import InputError
from posttrain.evaluation.statistics import Interval, gain, interval, quantile


def seeds(evaluations: list[str], task: str | None = None) -> None:
    """Print a line for each seed, then mean, spread and range over the seeds.

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
    rates, gains = [], []
    for text in evaluations:
        rate, over = figures(text, task)
        rates.append(rate)
        told = f"pass@1 {rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
        if over is not None:
            gains.append(over)
            told += f" | over SFT {over.mean:+.3f} [{over.low:+.3f}, {over.high:+.3f}]"
        print(f"seeds | {text:{width}} {told}")
    print(f"seeds | pass@1 {together([rate.mean for rate in rates])}")
    if len(gains) == len(evaluations):
        print(f"seeds | over SFT {together([over.mean for over in gains], '+')}")
    print("seeds | the interval of one evaluation is about its checkpoints and leaves out the spread between seeds")
    outside = [text for text, rate in zip(evaluations, rates, strict=True) if excludes(rate, rates)]
    if outside:
        print(f"seeds | the interval of {', '.join(outside)} holds no other seed's pass@1")


def figures(text: str, task: str | None) -> tuple[Interval, Interval | None]:
    """pass@1 of the model, and its gain over SFT if that was evaluated beside it."""
    found = evaluated(text, task)
    after_P = [share(right) for right in found.right.values()]
    what, model = parsed(text)
    row = of_task(list(rows_of(what)), text, task)[0]
    rate = interval(after_P, found.completions)
    if "sft" not in made_by(row) or (model or default(row, text)) == "sft":
        return rate, None
    before_P = [share(right) for right in evaluated(f"{what}:sft", task).right.values()]
    return rate, gain(before_P, after_P, found.completions)


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
