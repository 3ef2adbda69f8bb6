"""Commands in the docs: each block runs in a clone, in the order of its page, or says above it why not.

python -m tests.docs           which commands are run and which are not, as a table
python -m tests.docs --run     runs them in a clone with the recipe of seconds: what each printed, minutes
python -m tests.docs --run docs/howto.md ...    those of some pages

A block that is not run has `<!-- not run: REASON -->` above it; PAGES are not run as a whole.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clone import copy_project

ROOT = Path(__file__).parents[1]
PAGES = {
    "docs/agents.md": "a server and agents: tests/flows runs the same calls",
    "docs/containers.md": "an image, a registry and a cluster",
    "docs/flows.md": "whole pipelines under Prefect: tests/flows",
    "docs/slurm.md": "a cluster",
    "docs/vllm.md": "GPUs: tests/pipeline/vllm_cpu.py",
}
SHELL = "mkdir|mv|cp|export|printf|source|for|openssl"
PROGRAMS = (
    f"posttrain|model_signing|make|dvc|git|python|prefect|sbatch|pip|uv|sky|hf|vllm|ollama|docker|kubectl|{SHELL}"
)
COMMAND = re.compile(rf"^\s*(?:\d+ +)?(?:\$ )?(?:[A-Z_]+=\S+ )*(?:{PROGRAMS}) ", re.M)
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+?) -->\n+)?^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```",
    re.S | re.M,
)
INLINE = re.compile(r"`((?:python -m )?posttrain [a-z][^`\n]*)`")
CALL = re.compile(r"(?<![\w./-])posttrain +([a-z][^\n|;&>#)\"]*(?:\"[^\"]*\"[^\n|;&>#)]*)*)")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    section: str
    text: str
    """The commands alone: of a block that shows a prompt, the lines behind it."""
    why_not: str | None


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, root: Path = ROOT) -> Iterator[Block]:
    """Fenced blocks that hold commands."""
    text, page = path.read_text(), str(path.relative_to(root))
    for found in BLOCK.finditer(text):
        if found["kind"] not in ("", "sh", "bash", "console") or not COMMAND.search(found["text"]):
            continue
        before = text[: found.start()]
        headings = re.findall(r"^#+ (.+)$", before, re.M)
        prompted = re.findall(r"^ *\$ (.+)$", found["text"], re.M)
        commands = "\n".join(prompted) if prompted else found["text"]
        line = text[: found.start("text")].count("\n")
        yield Block(page, line, headings[-1] if headings else "", commands, found["why"] or PAGES.get(page))


def calls(path: Path) -> list[str]:
    """What stands after `posttrain` in the blocks of a page."""
    return [call for block in blocks(path) for call in calls_in(block.text.replace("\\\n", " "))]


def inline_calls(path: Path) -> list[str]:
    """The same between backticks, where a command may lack what it needs."""
    return [call for span in INLINE.findall(path.read_text()) for call in calls_in(span)]


def calls_in(text: str) -> list[str]:
    return [found[1].strip() for found in CALL.finditer(re.sub(r" #.*", "", text, flags=re.M))]


def table() -> str:
    found = [block for path in pages() for block in blocks(path)]
    rows = ["| block | section | commands | run |", "|---|---|---|---|", *map(row, found)]
    run = sum(block.why_not is None for block in found)
    return "\n".join([*rows, "", f"{run} of {len(found)} blocks are run"])


def row(block: Block) -> str:
    commands = list(COMMAND.finditer(block.text))
    first = block.text[commands[0].start() :].strip().splitlines()[0][:60].strip().replace("|", "\\|")
    cells = f"{block.page}:{block.line}", block.section, f"`{first}` ({len(commands)})"
    return f"| {' | '.join(cells)} | {f'not: {block.why_not}' if block.why_not else 'yes'} |"


@dataclass(frozen=True)
class Ran:
    block: Block
    code: int
    output: str
    seconds: float


def clone(folder: Path) -> Path:
    """A commit of the working tree with the recipe of seconds, after one `dvc repro`."""
    target = folder / "clone"
    copy_project(target)
    setup = """set -e
    git init -q && git config user.name test && git config user.email test@example.org
    posttrain recipe seconds && git add -A && git commit -qm Recipe
    dvc repro -q && git add -A && git commit -qm Results"""
    ran = shell(setup, target)
    assert ran.returncode == 0, ran.stdout
    (target / ".venv").symlink_to(ROOT / ".venv")
    return target


def run_all(folder: Path, names: Sequence[str] = ()) -> Iterator[Ran]:
    """Every block to run, or those of the pages that are named."""
    target = clone(folder)
    found = [block for path in pages() for block in blocks(path) if block.why_not is None]
    for block in (block for block in found if not names or block.page in names):
        started = time.monotonic()
        ran = shell(f"set -euo pipefail\n{block.text}", target)
        yield Ran(block, ran.returncode, ran.stdout, time.monotonic() - started)


def shell(text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """bash in the clone, whose `posttrain` is the clone's code: the environment was made for the repository."""
    command = 'posttrain() { python -m posttrain "$@"; }\n' + text
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    lighteval = str(ROOT / ".venv-lighteval/bin/python")
    environment = {
        **os.environ,
        "PATH": path,
        "LIGHTEVAL_PYTHON": lighteval,
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        timeout=900,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.docs")
    options.add_argument("--run", action="store_true", help="run the commands and say what they printed")
    options.add_argument("pages", nargs="*", metavar="PAGE", help="such as docs/howto.md; all if none")
    asked = options.parse_args()
    if not asked.run:
        print(table())
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for ran in run_all(Path(folder), asked.pages):
            failed += ran.code != 0
            print(
                f"\n## {ran.block.page}:{ran.block.line} {ran.block.section} | exit {ran.code} | {ran.seconds:.0f} s",
                flush=True,
            )
            print("\n".join(f"$ {line}" for line in ran.block.text.strip().splitlines()))
            print("\n".join(ran.output.strip().splitlines()[-12:]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
