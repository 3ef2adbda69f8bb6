"""What the flow costs beside DVC: five stages that take no time, unchanged and all of them forced.

Reads   nothing
Writes  a table to standard output; a project and a Prefect server in a temporary folder
Run     python -m benchmarks.flows --rounds 5

Each round runs, one after the other, `dvc repro`, `dvc repro --single-item` and the flow, so that the load of the
machine is the same for all; medians of the rounds. The server is up before the first, its own work is not counted.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

STAGES = ("prepare", "sft", "grpo", "evaluate", "report")
DVC = [sys.executable, "-m", "dvc"]
FLOW = [sys.executable, "-m", "flows.pipeline"]


def project(root: Path) -> None:
    """Five stages, each of which reads the one before."""
    stages = {
        stage: {"cmd": f"cp {before}.txt {stage}.txt", "deps": [f"{before}.txt"], "outs": [f"{stage}.txt"]}
        for before, stage in zip(("in", *STAGES), STAGES, strict=False)
    }
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (root / "in.txt").write_text("1\n")
    for command in (["git", "init", "--quiet"], [*DVC, "init", "--quiet"]):
        subprocess.run(command, cwd=root, check=True)


Times = tuple[float, float]
"""By the clock on the wall, and of processors by the command and all that it started; both in seconds."""


def timed(root: Path, environment: dict[str, str], *commands: list[str]) -> Times:
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def one_round(root: Path, environment: dict[str, str], options: list[str]) -> dict[str, Times]:
    run = partial(timed, root, environment)
    singles = [[*DVC, "repro", "--single-item", *options, stage] for stage in STAGES]
    return {
        "`dvc repro`": run([*DVC, "repro", *options]),
        "`dvc repro --single-item`, one stage": run(singles[0]),
        "the same, five stages": run(*singles),
        "the flow, one stage": run([*FLOW, STAGES[0], *options]),
        "the flow, five stages": run([*FLOW, *STAGES, *options]),
    }


def more(times: dict[str, Times]) -> tuple[Times, Times]:
    """What the flow takes beside the DVC in it: once, and for each stage."""
    _, single, singles, flow, flows = map(np.array, times.values())
    once = flow - single
    return tuple(once), tuple((flows - singles - once) / (len(STAGES) - 1))


def measure(rounds: int, root: Path, environment: dict[str, str]) -> None:
    for name, options in (("unchanged", []), ("all forced", ["--force"])):
        found = []
        for _ in range(rounds):
            times = one_round(root, environment, options)
            once, each = more(times)
            found.append({**times, "the flow beside its DVC, once": once, "and for each stage": each})
        print(f"| {name} | seconds | of processors |\n|---|---:|---:|")
        for row in found[0]:
            wall, used = (statistics.median(times[row][kind] for times in found) for kind in (0, 1))
            print(f"| {row} | {wall:.2f} | {used:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="The flow against DVC alone.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PREFECT_HOME": f"{folder}/prefect", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        os.environ |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": f"{folder}/site"}
        from prefect.server.api.server import SubprocessASGIServer  # reads the environment when it is imported

        root = Path(folder, "project")
        root.mkdir()
        project(root)
        code = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        with SubprocessASGIServer() as server:
            measure(rounds, root, {**os.environ, "PREFECT_API_URL": server.api_url, "PYTHONPATH": code})


if __name__ == "__main__":
    main()
