"""Environment variables."""

from pathlib import Path

from hypothesis import strategies as st

from posttrain.params.file import LAUNCH_VARIABLES
from posttrain.params.launch import Launch
from tests.surface import faults
from tests.surface.case import Case

OTHERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "ACCELERATE_MIXED_PRECISION",
    "OMP_NUM_THREADS",
    "COLUMNS",
    "HF_HOME",
    "TMPDIR",
)
ODD = (
    *(
        "",
        "[" * 50_000,
        "\udcff\udcfe",
        "--trust-remote-code",
        "9" * 5000,
        "{a: 1, a: 2}",
        "!!python/object:os.system x",
    ),
    *("&a [*a]", ".nan", "yes", "99999", "0", "-1", "1e999", "\x1b[31m", "../..", "127.0.0.1:99999", "null"),
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40) | st.sampled_from(ODD)
SHORT = [value for value in faults.VALUES if len(value.text) < 100_000 and "\\u0000" not in value.text]
WORDS = st.sampled_from(SHORT)


def cases(project: Path) -> st.SearchStrategy[Case]:
    keys = [LAUNCH_VARIABLES + key.upper() for key in Launch.model_fields]
    odd = st.text("ABCDEFGHIJ_\u00e9\x1b", min_size=1, max_size=12).map(lambda name: LAUNCH_VARIABLES + name)
    names = st.sampled_from(keys) | st.sampled_from(keys) | odd | st.sampled_from(OTHERS)
    texts = TEXTS | WORDS.map(lambda value: value.text)
    commands = st.sampled_from([("launch", "--show"), ("launch", "sft", "--show"), ("check",), ("checkpoints",)])
    return st.builds(
        lambda name, text, argv: Case(argv, f"{name}={text[:60]!r}", environment={name: text}), names, texts, commands
    )


def valid(project: Path) -> st.SearchStrategy[Case]:
    variables = {"THREADS": "2", "PROCESSES": "1", "MICRO_BATCH_SIZE": "4", "DEVICE": "cpu", "REWARD_WORKERS": "2"}
    return st.builds(
        lambda name, argv: Case(
            argv, f"{name}={variables[name]}", {}, "accepted", environment={LAUNCH_VARIABLES + name: variables[name]}
        ),
        st.sampled_from(list(variables)),
        st.sampled_from([("launch", "--show"), ("launch", "sft", "--show"), ("checkpoints",)]),
    )
