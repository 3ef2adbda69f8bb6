"""What verification costs, what it survives, and where it differs from math-verify.

Run     python benchmarks/rewards.py throughput|hostile|agreement      (`make bench-rewards` runs all three)

throughput  batches as GRPO makes them, against open-r1's way: one after another in the trainer, gold parsed each time
hostile     20 rounds over the hostile corpus: seconds, verdicts, memory of trainer and workers
agreement   (gold, answer) pairs against math_verify.verify(parse(gold), parse(answer)); --gsm8k adds a file's golds
"""

import argparse
import json
import random
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from posttrain.judge.answers import declared_answer  # noqa: E402
from posttrain.judge.text import plain  # noqa: E402
from posttrain.judge.values import read  # noqa: E402
from posttrain.judge.verifier import Verifier, can_read  # noqa: E402
from posttrain.prompts import completion_text  # noqa: E402
from tests.hostile import hostile  # noqa: E402
from tests.pairs import GSM8K_STYLE, MATH_STYLE, difference, pairs  # noqa: E402

THOUGHTS = (
    "Let $n$ be the number of them. First, $3n + 4 = 25$, so $3n = 21$ and $n = 7$. Next, the area is "
    "$\\frac{1}{2} \\cdot 6 \\cdot 8 = 24$, and twice that is $48$. Finally, I check: $7 + 24 = 31$. "
)
Batch = list[tuple[str, str]]
"""(completion, gold) of a step, groups in a row."""


def batch(prompts: int, group: int, distinct: int, golds: list[str], seed: int) -> Batch:
    """`distinct` answers to each problem, one of them right, the others nearly; the frequent ones more frequent."""
    rng = random.Random(seed)
    found: Batch = []
    for gold in rng.choices(golds, k=prompts):
        answers = [gold, *(vary(gold, rng) for _ in range(distinct - 1))]
        weights = [1 / rank for rank in range(1, distinct + 1)]
        answers = answers[:group] if distinct >= group else rng.choices(answers, weights, k=group)
        found += [(completion_text(THOUGHTS * 4, f"\\boxed{{{answer}}}"), gold) for answer in answers]
    return found


def vary(gold: str, rng: random.Random) -> str:
    """A slip: one or two digits changed, or the sign."""
    digits = [place for place, character in enumerate(gold) if character.isdigit()]
    if not digits:
        return rng.choice([f"-{gold}", f"2{gold}", f"{gold}+1", f"{gold}-1", f"\\frac{{{gold}}}{{2}}"])
    for place in rng.sample(digits, min(len(digits), rng.randint(1, 2))):
        gold = gold[:place] + str((int(gold[place]) + rng.randint(1, 9)) % 10) + gold[place + 1 :]
    return f"-{gold}" if rng.random() < 0.1 else gold


def open_r1_way(items: Batch) -> list[bool]:
    """As open-r1's accuracy reward calls math-verify; the settings are its own."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    normalization = NormalizationConfig(
        nits=False, malformed_operators=False, basic_latex=True, boxed="all", units=True
    )
    config = LatexExtractionConfig(
        normalization_config=normalization, boxed_match_priority=0, try_extract_without_anchor=False
    )
    verdicts = []
    for completion, gold in items:
        parsed_gold = parse(f"${gold}$", extraction_mode="first_match")
        parsed = parse(completion, extraction_config=[config], extraction_mode="first_match")
        verdicts.append(bool(verify(parsed_gold, parsed)))
    return verdicts


def our_way(verifier: Verifier, items: Batch) -> list[bool | None]:
    return verifier.verdicts([(gold, declared_answer(completion)) for completion, gold in items])


def throughput(workers: int) -> None:
    math = [gold for gold in MATH_STYLE if can_read(gold)]
    math += [gold for gold in GSM8K_STYLE * 9 if gold.isdigit()][
        : len(math) * 3 // 2
    ]  # three of five are plain integers
    algebra = [
        "\\tan 30",
        "\\log_2 8",
        "(2,12)\\cup(12,102)",
        "\\sin x",
        "\\text{(B)}",
        "\\binom{5}{2}",
        "1\\frac{1}{2}",
        "7!",
    ]
    shapes = {
        "32 x 16, MATH, 5 distinct": (32, 16, 5, math),
        "32 x 16, MATH, 16 distinct": (32, 16, 16, math),
        "32 x 16, GSM8K, 5 distinct": (32, 16, 5, GSM8K_STYLE),
        "32 x 16, GSM8K, 16 distinct": (32, 16, 16, GSM8K_STYLE),
        "1 x 1, MATH": (1, 1, 1, math),
        "1 x 2, MATH, 2 distinct": (1, 2, 2, math),
        "1 x 16, MATH, 5 distinct": (1, 16, 5, math),
        "256 x 4, MATH, 4 distinct": (256, 4, 4, math),
        "512 x 1, MATH": (512, 1, 1, math),
        "32 x 16, algebra, 5 distinct": (32, 16, 5, algebra),
        "32 x 16, algebra, 16 distinct": (32, 16, 16, algebra),
        "1 x 2, algebra, 2 distinct": (1, 2, 2, algebra),
    }
    began = time.perf_counter()
    with Verifier(5.0, 1.0, workers) as verifier:
        verifier.verdicts([("\\tan 30", "\\tan 31")])
        print(f"start of {workers} workers and their first verdict, once in a run: {time.perf_counter() - began:.2f} s")
        calls = [(number,) for number in range(1000)]
        overhead = min(seconds_of(lambda: verifier.pool.run(abs, calls, 1.0)) for _ in range(3)) / len(calls)
        print(f"the pool's overhead: {overhead * 1e3:.2f} ms a call; a call is one gold with all its new answers\n")
        open_r1_way(batch(4, 4, 4, math, 0))  # warm: imports, grammars
        print(f"{'prompts x completions':30}{'open-r1 s':>11}{'ours s':>9}{'ratio':>8}{'again s':>10}")
        for name, shape in shapes.items():
            theirs, ours, again = [], [], []
            for seed in range(1, 4 if shape[0] > 1 else 22):
                items = batch(*shape, seed)
                forget(verifier)
                ours.append(seconds_of(lambda: our_way(verifier, items)))  # noqa: B023
                again.append(seconds_of(lambda: our_way(verifier, items)))  # noqa: B023
                theirs.append(seconds_of(lambda: open_r1_way(items)))  # noqa: B023
            ratio = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
            print(
                f"{name:30}{statistics.median(theirs):>11.4f}{statistics.median(ours):>9.4f}{ratio:>8.1f}"
                f"{statistics.median(again):>10.4f}"
            )


def forget(verifier: Verifier) -> None:
    """Nothing of earlier batches is known, neither here nor in the workers, which are new."""
    verifier.close()
    verifier._known.clear()
    plain.cache_clear()
    read.cache_clear()
    for number in range(4):
        verifier.verdicts([("\\tan 30", f"\\tan {number}")])


def seconds_of(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def run_hostile(workers: int, rounds: int, timeout_s: float) -> None:
    names = [name for name, _ in hostile()]
    print(f"{len(names)} completions, {rounds} rounds, verifier.timeout_s {timeout_s:g}, {workers} workers")
    with Verifier(timeout_s, 1.0, workers) as verifier:
        for number in range(1, rounds + 1):
            counts: Counter[bool | None] = Counter()
            began = time.perf_counter()
            for gold in ("5", "\\sqrt{13}"):
                # One at a time as they are megabytes; all verdicts of a round are new ones.
                asked = [(gold, declared_answer(text)) for _, text in hostile()]
                verifier._known.clear()
                counts.update(verifier.verdicts(asked))
            seconds = time.perf_counter() - began
            memory = {name: mib(pid) for name, pid in processes(verifier).items()}
            print(
                f"round {number:2}: {seconds:6.1f} s | right {counts[True]}, wrong {counts[False]}, none {counts[None]}"
                f" | MiB: {', '.join(f'{name} {value:.0f}' for name, value in memory.items())}",
                flush=True,
            )
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def processes(verifier: Verifier) -> dict[str, int]:
    workers = sorted(worker.process.pid or 0 for worker in verifier.pool._team)
    return {"trainer": __import__("os").getpid(), **{f"worker {n}": pid for n, pid in enumerate(workers, start=1)}}


def mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except FileNotFoundError:  # just replaced
        return 0.0


def agreement(workers: int, gsm8k: str | None) -> None:
    """Every difference, with its reason."""
    from math_verify import parse, verify

    sample = pairs()
    if gsm8k:
        lines = Path(gsm8k).read_text(encoding="utf-8").splitlines()
        golds = [json.loads(line)["answer"].rpartition("####")[2].strip() for line in lines]
        rng = random.Random(0)
        sample += [(gold, form) for gold in golds for form in (gold, f"x = {gold}", vary(gold, rng), f"\\${gold}.00")]
    with Verifier(5.0, 1.0, workers) as verifier:
        distinct = sorted({gold for gold, _ in sample})
        readable = {gold for gold, can in zip(distinct, verifier.readable(distinct), strict=True) if can}
        sample = [pair for pair in dict.fromkeys(sample) if pair[0] in readable]
        declared = [declared_answer(completion_text("so", answer)) for _, answer in sample]
        verdicts = verifier.verdicts([(gold, said) for (gold, _), said in zip(sample, declared, strict=True)])
    reasons: dict[str, list[tuple[str, str]]] = {}
    for (gold, answer), said, ours in zip(sample, declared, verdicts, strict=True):
        theirs = bool(verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}")))
        if ours != theirs:
            reasons.setdefault(difference(gold, answer, said, ours, theirs), []).append((gold, answer))
    different = sum(map(len, reasons.values()))
    print(f"{len(sample)} pairs, {len(sample) - different} agree, {different} differ")
    for why, found in sorted(reasons.items(), key=lambda item: -len(item[1])):
        shapes = {answer.replace(gold, "G"): (gold, answer) for gold, answer in found}
        examples = ", ".join(f"{answer!r} for {gold!r}" for gold, answer in list(shapes.values())[:12])
        print(f"{len(found):6} {why}\n       {examples}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "hostile", "agreement"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--timeout-s", type=float, default=0.25)
    parser.add_argument("--gsm8k", help="a .jsonl file whose `answer` ends with #### and the gold")
    arguments = parser.parse_args()
    if arguments.what == "throughput":
        throughput(arguments.workers)
    elif arguments.what == "hostile":
        run_hostile(arguments.workers, arguments.rounds, arguments.timeout_s)
    else:
        agreement(arguments.workers, arguments.gsm8k)


if __name__ == "__main__":
    main()
