"""docs/agents.md from nothing: its commands as they stand on the page, on two clones; `make test-flows`, five minutes.

Not among the tests that pytest finds by itself. Run: pytest -s tests/flows/agents_page.py

Of a command, the port of the server and the bucket are other ones: a free port, and a folder that both clones reach.
The recipe is that of seconds. Then the same on fresh clones of what came of it, with an empty folder: what dvc.lock
tells of and nobody has is made again.
"""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.agents import REPOSITORY, Site, committed
from tests.clone import ROOT, copy_project
from tests.docs import blocks
from tests.processes import wait

PAGE = REPOSITORY / "docs/agents.md"
SECTION = "From nothing to two agents"
EVERYWHERE, SERVER, FIRST, SECOND = range(4)
"""The blocks of the section: for each shell, for the server, for the machine that it is on, for the one with GPUs."""
WORDS = ["prepare", "sft", "grpo", "evaluate", "report"]


def steps() -> list[list[str]]:
    """The lines of each block, without their numbers."""
    texts = [block.text for block in blocks(PAGE) if block.section == SECTION]
    return [[re.sub(r"^\s*(\d+)?\s*", "", line) for line in text.splitlines()] for text in texts]


def start_command() -> str:
    """The step that stands in the text, between backticks."""
    (command,) = re.findall(r"`10  (prefect deployment run [^`]+)`", PAGE.read_text())
    return str(command)


def clone(home: Path, target: Path) -> None:
    """A clone as `make setup` leaves it; its environments are those of the repository, its code its own."""
    subprocess.run(["git", "clone", "--quiet", str(home), str(target)], check=True)
    for name in (".venv", ".venv-lighteval"):
        (target / name).symlink_to(ROOT / name)


class Machines(Site):
    """Shells in two clones, with the server's port in place of the page's and a folder in place of its bucket."""

    def environment(self, root: Path) -> dict[str, str]:
        """Without what the page sets itself."""
        theirs = ("PREFECT_API_URL", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE")
        return {name: value for name, value in super().environment(root).items() if name not in theirs}

    def mine(self, line: str) -> str:
        remote = self.folder / "remote"
        return (
            line.replace("s3://BUCKET/posttrain", str(remote))
            .replace("4200", str(self.port))
            .replace("--host 127.0.0.1", f"--host 127.0.0.1 --port {self.port}")
        )

    def shell(self, lines: list[str]) -> list[str]:
        prepared = [". .venv/bin/activate", *steps()[EVERYWHERE], *lines]
        return ["bash", "-e", "-c", "\n".join(map(self.mine, prepared))]

    def follow(self, pool: str, lines: list[str]) -> None:
        """Each line in turn, and what it printed; the last, a worker, goes on."""
        *first, worker = lines
        for line in first:
            print(f"{pool}$ {line}\n{self.run(self.clone(pool), *self.shell([line]))}")
        self.start(pool, self.clone(pool), *self.shell([f"exec {worker}"]))

    def serve(self, lines: list[str]) -> None:
        *settings, server = lines
        self.start("server", self.clone("cpu"), *self.shell([*settings, f"exec {server}"]))
        wait(self.healthy, 120)


@contextmanager
def machines(folder: Path, home: Path) -> Iterator[Machines]:
    """What steps 1 to 9 make; over when the context is."""
    made = Machines(folder)
    for pool in ("cpu", "gpu"):
        clone(home, made.clone(pool))
    try:
        made.serve(steps()[SERVER])
        made.follow("cpu", steps()[FIRST])
        made.follow("gpu", steps()[SECOND])
        yield made
    finally:
        for name in reversed(list(made.processes)):
            made.stop(name, signal.SIGINT)


def chain(made: Machines, command: str) -> str:
    """The message of the chain's last state, when it has ended well."""
    said = made.run(made.clone("gpu"), *made.shell([command]))
    run = re.findall(r"UUID: ([0-9a-f-]{36})", said)[-1]
    state = made.over(run, 500)["state"]
    assert state["name"] == "Completed", f"{state['message']}\n{made.said(run)}"
    assert set(made.states(run)) == set(WORDS)
    return str(state["message"])


def test_every_command_as_written_ends_green(tmp_path: Path) -> None:
    home = tmp_path / "home"
    copy_project(home)
    shutil.copy(ROOT / "dvc.lock", home)  # as a clone has it: of another recipe, whose outs are nowhere
    committed(home)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    all_ran = ", ".join(f"{word} ran" for word in WORDS)

    with machines(first, home) as made:
        assert chain(made, f"{start_command()} -p recipe=seconds") == all_ran
        made.run(made.clone("cpu"), "git", "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-qam", "Results")

    with machines(second, made.clone("cpu")) as made:
        assert chain(made, start_command()) == all_ran
        unchanged = ", ".join(f"{word} unchanged" for word in WORDS)
        assert chain(made, start_command()) == unchanged
        wait(lambda: made.slots() == 0, 30)
