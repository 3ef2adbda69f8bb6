"""What the flow costs beside DVC: five stages that take no time, unchanged and all of them forced.

Reads   nothing
Writes  a table to standard output; a project and a Prefect server in a temporary folder
Run     python -m benchmarks.flows --rounds 5

Each round runs, one after the other, `dvc repro`, five `dvc repro --single-item` and the flow, so that the load of the
machine is the same for all. The server is up before the first; each command is a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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


def ways(root: Path, environment: dict[str, str]) -> dict[str, Callable[[list[str]], None]]:
    """The three ways to bring all stages up to date, by name; each takes further options."""

    def run(*command: str) -> None:
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)

    def one_by_one(options: list[str]) -> None:
        for stage in STAGES:
            run(*DVC, "repro", "--single-item", *options, stage)

    return {
        "dvc repro": lambda options: run(*DVC, "repro", *options),
        "dvc repro --single-item, five times": one_by_one,
        "the flow": lambda options: run(*FLOW, *options),
    }


def seconds(work: Callable[[list[str]], None], options: list[str]) -> float:
    began = time.monotonic()
    work(options)
    return time.monotonic() - began


def measure(rounds: int, root: Path, environment: dict[str, str]) -> None:
    compared = ways(root, environment)
    for work in compared.values():
        work([])
    print("| | " + " | ".join(compared) + " | flow beside its DVC, a stage |\n|---|" + "---:|" * (len(compared) + 1))
    for name, options in (("unchanged", []), ("all forced", ["--force"])):
        times = [[seconds(work, options) for work in compared.values()] for _ in range(rounds)]
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        more = statistics.median((flow - single) / len(STAGES) for _, single, flow in times)
        print(f"| {name} | " + " | ".join(f"{median:.2f} s" for median in medians) + f" | {more:.2f} s |")


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
