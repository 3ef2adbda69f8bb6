"""The flow `posttrain-sweep`: points of params, each a run of the flow `posttrain` in a worktree of its own.

Reads   dvc.yaml, params.yaml, recipes/; the experiments that the runs leave
Writes  a table and a chart as artifacts; an experiment for each point that went well
Run     python -m flows.sweep KEY=VALUE,VALUE ... [--concurrency N] [--recipe NAME] [--stages STAGE ...]

Exit codes: 0, 1 if a point failed, 2 for wrong input, 130 for Ctrl-C. A point that fails does not stop the others. The
same command again goes on with what failed; what was done comes from DVC's cache.
"""

import argparse
import itertools
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.api import read
from prefect import flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_table_artifact

from flows.chart import data_uri, intervals
from flows.child_runs import Point, run_points
from flows.command import git
from flows.pipeline import Setting, chosen, setting, start_server
from flows.told import told
from flows.worktree import committed, experiment_name
from posttrain.errors import InputError, PosttrainError
from posttrain.graph import stage_names
from posttrain.outputs.json_files import as_object, parse
from posttrain.params.recipes import overlaid
from posttrain.paths import EVALUATE_RESULTS

WIDTH = 100

Grid = dict[str, list[Setting]] | list[dict[str, Setting]]


@dataclass(frozen=True)
class PointRun:
    """How the run of a point ended; `metrics` are those of evaluate, None if it was not run or the point failed."""

    point: Point
    state: str
    metrics: dict[str, Any] | None


class PointsFailed(PosttrainError):
    """Not all points of a sweep went well."""


@flow(name="posttrain-sweep")
@told
def sweep(
    grid: dict[str, list[Setting]] | list[dict[str, Setting]],
    concurrency: int = 1,
    stages: list[str] | None = None,
    recipe: str | None = None,
) -> list[PointRun]:
    """Run the flow `posttrain` for each point, at most `concurrency` of them at one time.

    Args:
        grid: Values for each param, of which all combinations are run, or the points themselves.
        concurrency: Runs at one time; each takes the processors or the GPU that a run by itself takes.
        stages: Some of those of dvc.yaml.
        recipe: One of recipes/, whose values stand in place of those of params.yaml.
    """
    root, log = Path.cwd(), get_run_logger()
    names = chosen(stages, stage_names(root))
    commit = committed(root)
    points = named(points_of(grid), commit, recipe)
    states = run_points(points, concurrency, {"stages": names, "recipe": recipe}, root, log)
    runs = [PointRun(point, states[point.experiment], None) for point in points]
    if EVALUATE_RESULTS.name in names:
        runs = [PointRun(run.point, run.state, metrics_of(run, commit, root)) for run in runs]
    show(runs)
    if failed := [run for run in runs if run.state != "Completed"]:
        raise PointsFailed(f"{len(failed)} of {len(runs)} points failed: {'; '.join(str(run.point) for run in failed)}")
    return runs


def points_of(grid: Grid) -> list[dict[str, Setting]]:
    """All combinations of a grid, or the points as they are; equal ones once.

    Raises: InputError if there is none.
    """
    if isinstance(grid, dict):
        grid = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    points = [point for index, point in enumerate(grid) if point and point not in grid[:index]]
    if not points:
        raise InputError("grid", got="no point", wanted="a param and its values", do="such as seed=1,2")
    return points


def named(points: Sequence[dict[str, Setting]], commit: str, recipe: str | None) -> list[Point]:
    """The points by experiment; those that come to the same params are one.

    Raises: InputError if the params of a point are not valid.
    """
    found = [Point(experiment_name(commit, overlaid(recipe, point), recipe, point), point) for point in points]
    return list({point.experiment: point for point in found}.values())


def metrics_of(run: PointRun, commit: str, root: Path) -> dict[str, Any] | None:
    """What evaluate measured, from the experiment and DVC's cache."""
    if run.state != "Completed":
        return None
    reference = f"refs/exps/{commit[:2]}/{commit[2:]}/{run.point.experiment}"
    name = str(EVALUATE_RESULTS / "metrics.json")
    text = read(name, repo=str(root), rev=git(root, "rev-parse", reference), mode="r")
    where, do = f"{reference}:{name}", "run the sweep again"
    return as_object(parse(text, where, do), where, do)


def show(runs: Sequence[PointRun]) -> None:
    """A table of all points, the best first, and a chart of those that were evaluated."""
    best_first = ranked(runs)
    create_table_artifact([row(run) for run in best_first], key="posttrain-sweep", description="pass@1 after GRPO")
    measured = [
        (
            str(run.point),
            run.metrics["grpo"]["pass@1_low"],
            run.metrics["grpo"]["pass@1"],
            run.metrics["grpo"]["pass@1_high"],
        )
        for run in best_first
        if run.metrics
    ]
    if measured:
        chart = data_uri(intervals(measured, "pass@1 after GRPO, 95 % interval"))
        create_image_artifact(chart, key="posttrain-sweep-chart", description="pass@1 after GRPO, 95 % interval")


def ranked(runs: Sequence[PointRun]) -> list[PointRun]:
    return sorted(runs, key=lambda run: -run.metrics["grpo"]["pass@1"] if run.metrics else 2)


def row(run: PointRun) -> dict[str, Any]:
    end = {"state": run.state, "experiment": run.point.experiment}
    if run.metrics is None:
        return {**run.point.settings, **end}
    gain, grpo = run.metrics["gain"], run.metrics["grpo"]
    return {
        **run.point.settings,
        "pass@1": round(grpo["pass@1"], 4),
        "gain": f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]",
        "verdict": run.metrics["verdict"],
        **end,
    }


def aligned(runs: Sequence[PointRun]) -> str:
    """The table for a terminal, the best first: as wide as it needs, and at most WIDTH, where points are shortened.

    The names of the experiments are in `dvc exp show` and in the table in Prefect.
    """
    columns = ("point", "pass@1", "gain", "verdict", "state")
    lines = [columns, *(cells(run) for run in ranked(runs))]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    widths[0] = min(widths[0], max(len("point"), WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    return "\n".join(
        "  ".join(f"{shortened(cell, width):{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def cells(run: PointRun) -> tuple[str, ...]:
    shown = row(run)
    value = f"{shown['pass@1']:.4f}" if "pass@1" in shown else "-"
    # Two params may end in one word, as sft.learning_rate and grpo.learning_rate do: keys stay whole.
    return str(run.point), value, shown.get("gain", "-"), shown.get("verdict", "-"), run.state


def shortened(text: str, width: int) -> str:
    """The end is what tells points apart."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def values(text: str) -> tuple[str, list[Setting]]:
    """`grpo.beta=0.01,0.02` as a key and its values, which are YAML."""
    key, equals, listed = text.partition("=")
    name, found = setting(f"{key}=[{listed}]" if equals else text)
    return name, found


def parameters_of(argv: Sequence[str]) -> dict[str, Any]:
    """Those of the flow, checked here too: the flow can say no only to a server.

    Raises: InputError
    """
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description="One run of the flow for each point.")
    parser.add_argument("grid", nargs="+", metavar="KEY=VALUE,VALUE", help="all combinations are run")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="runs at one time")
    parser.add_argument("--recipe", metavar="NAME", help="one of recipes/, in place of the values of params.yaml")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help="all if none is given")
    given = parser.parse_args(argv)
    grid = dict(map(values, given.grid))
    stages = chosen(given.stages, stage_names(Path.cwd()))
    named(points_of(grid), committed(Path.cwd()), given.recipe)
    return {"grid": grid, "concurrency": given.concurrency, "stages": stages, "recipe": given.recipe}


def main(argv: Sequence[str]) -> int:
    try:
        parameters = parameters_of(argv)
        start_server()
        runs = sweep(**parameters)
    except PosttrainError as error:
        print(f"sweep | {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sweep | interrupted | next: the same command, which repeats nothing that was done", file=sys.stderr)
        return 130
    finally:
        logging.getLogger("prefect").setLevel(logging.WARNING)  # the server's farewell would stand below our last line
    print(aligned(runs))
    print(f"sweep | {len(runs)} points | next: dvc exp show")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
