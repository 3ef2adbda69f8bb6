"""Arguments of the command: every option with values that it may not expect."""

from pathlib import Path

from hypothesis import strategies as st

from tests.surface.case import Case

WORDS = (
    "",
    "-",
    "--",
    "0",
    "-1",
    "nan",
    "inf",
    "1e999",
    "9" * 5000,
    "x" * 5000,
    "\x1b[31m",
    "a\u202eb",
    "a\udcffb",
    "\n",
)
PATHS = (
    "models/sft",
    "models",
    "data",
    "params.yaml",
    "/",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "rows\n",
    "~",
    ".",
    "..",
)
REVISIONS = (
    "HEAD",
    "HEAD~999999",
    "@{-1}",
    "--help",
    "-o",
    "workspace",
    "workspace:sft",
    "workspace:\x1b",
    "a:b:c",
    ":",
    "HEAD:",
    "x..y",
)
COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("data",): ("--why",),
    ("plan",): (
        "--model-size",
        "--config",
        "--gpus",
        "--gpu-memory-gib",
        "--precision",
        "--vllm",
        "--utilisation",
        "--lora-rank",
    ),
    ("plan", "--model-size", "7B", "--gpu-memory-gib", "80"): (
        "--gpus",
        "--prompt-length",
        "--tflops",
        "--efficiency",
        "--max-steps",
    ),
    ("plan", "--gpu-memory-gib", "80"): ("--config",),
    ("chat", "--ask", "2 + 2"): ("--compare",),
    ("chat",): ("--ask",),
    ("launch", "--show"): (),
    ("gate",): (),
    ("check",): (),
    ("compare",): ("--task", "--seeds"),
    ("compare", "workspace:sft", "workspace:grpo"): ("--task",),
    ("rewards",): ("--tokenizer",),
    ("rewards", "results/grpo/samples.jsonl"): ("--tokenizer",),
    ("checkpoints",): (),
    ("verify",): (),
    ("lineage",): ("--x",),
    ("relock",): ("--x",),
    ("recipe",): (),
    ("prepare",): ("--x",),
    ("evaluate",): ("--tasks", "--output", "--dtype", "--temperature", "--top-p", "--samples", "--limit", "--seed"),
    ("nothing",): (),
}


@st.composite
def cases(draw: st.DrawFn, project: Path) -> Case:
    command = draw(st.sampled_from(list(COMMANDS)))
    texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
    word = st.sampled_from(WORDS) | st.sampled_from(PATHS) | st.sampled_from(REVISIONS) | texts
    argv = list(command)
    if options := COMMANDS[command]:
        option = draw(st.sampled_from(options))
        argv += draw(st.sampled_from([[option], [option, draw(word)], [f"{option}={draw(word)}"]]))
    argv += draw(st.lists(word, min_size=int(command[0] in ("prepare", "evaluate", "relock")), max_size=2))
    if command[0] in ("prepare", "relock", "evaluate"):
        argv.append("--no-such-option")
    return Case(tuple(argv), "arguments")


VALID: tuple[tuple[str, ...], ...] = (
    ("data",),
    ("plan", "--model-size", "7B", "--gpu-memory-gib", "80", "--gpus", "8"),
    ("plan", "--config", "models/sft/config.json", "--gpu-memory-gib", "80"),
    ("launch", "--show"),
    ("gate",),
    ("compare", "workspace:sft", "workspace:grpo"),
    ("compare", "workspace:sft", "workspace:grpo", "--task", "held_out"),
    ("compare", ".:sft", "workspace"),
    ("rewards", "results/grpo/samples.jsonl"),
    ("rewards", "results/grpo/samples.jsonl", "--tokenizer", "models/sft"),
    ("checkpoints",),
    ("lineage",),
    ("recipe",),
    ("chat", "--ask", "Solve: 3x = 6"),
    ("chat", "models/sft", "--compare", "models/grpo", "--ask", "Solve: 3x = 6"),
)


def valid(project: Path) -> st.SearchStrategy[Case]:
    return st.sampled_from(VALID).map(lambda argv: Case(argv, "as they should be", {}, "accepted"))
