"""`python -m tests.surface [--examples N] [--kind NAME] [--seed N]`: the table of docs/faults.md, and every case
that was answered wrongly. Needs a project whose stages have run: this one unless `--project` names another.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from posttrain.cli import quiet
from tests.surface.case import Case
from tests.surface.kinds import KINDS, SLOW, cases_of
from tests.surface.run import FAULTS, OUTCOMES, Outcome, judge

NEEDED = ("params.yaml", "dvc.yaml", "recipes", "data", "models", "results", "rewards", "requirements")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.surface")
    parser.add_argument("--examples", type=int, default=100, metavar="N", help="of a kind")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--all", action="store_true", help="print every case")
    given = parser.parse_args()
    warm()
    counts = {}
    with tempfile.TemporaryDirectory(prefix="surface-") as folder:
        root = copied(given.project, Path(folder) / "root")
        for kind in given.kind or KINDS:
            number = max(2, given.examples // SLOW.get(kind, 1))
            counts[kind] = Counter(outcome.verdict for _, outcome in judged(kind, root, number, given.seed, given.all))
    table(counts)
    return 2 if any(count[fault] for count in counts.values() for fault in FAULTS) else 0


def warm() -> None:
    """Import what commands import, so that a case costs a fork."""
    quiet()
    import stages.prepare
    import stages.report  # noqa: F401
    from tests import preload  # noqa: F401


def copied(project: Path, target: Path) -> Path:
    for name in NEEDED:
        source = project / name
        if source.is_dir():
            shutil.copytree(source, target / name)
        elif source.exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    return target


def judged(kind: str, root: Path, number: int, begin: int, every: bool) -> list[tuple[Case, Outcome]]:
    """Cases of one kind and what became of them."""
    found: list[tuple[Case, Outcome]] = []

    def tried(case: Case) -> None:
        found.append((case, outcome := judge(case, root)))
        if every or outcome.verdict in FAULTS:
            print(f"{kind} | {outcome.verdict} {outcome.code} | {case!r}\n    {told(outcome)}", flush=True)

    run: Any = settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(seed(begin)(given(cases_of(kind, root))(tried)))
    run()
    return found


def told(outcome: Outcome) -> str:
    lines = [line for line in outcome.text.splitlines() if line.strip()]
    return "\n    ".join(ascii(line)[1:240] for line in lines[-6:])


def table(counts: dict[str, Counter[str]]) -> None:
    print(f"\n| input | total | {' | '.join(OUTCOMES)} |\n|---|{'---|' * (len(OUTCOMES) + 1)}")
    for kind, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        print(f"| {kind} | {count.total()} | {' | '.join(str(count[one]) for one in OUTCOMES)} |")


if __name__ == "__main__":
    sys.exit(main())
