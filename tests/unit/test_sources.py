"""Sources: formats, folders, layouts, mixtures, and what is said of files that cannot be used."""

import bz2
import gzip
import json
import lzma
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data.columns import FaultyRow, answer_of, value_at
from posttrain.data.layouts import boxed_in, without_instruction
from posttrain.data.mixture import sizes
from posttrain.data.patterns import Bounded
from posttrain.data.readers import read_lines, read_rows
from posttrain.data.sources import load
from posttrain.errors import EXIT_WRONG_INPUT, InputError
from posttrain.params.schema import Params
from stages import prepare

ParamsWith = Callable[[dict[str, Any]], Params]
Load = Callable[..., list[dict[str, Any]]]

SOURCE = Path("data/source")
ROWS = [{"problem": f"What is 1 + {n}?", "solution": f"It is {n + 1}.", "answer": str(n + 1)} for n in range(12)]
TAKEN = [(row["problem"], row["answer"], [row["solution"]]) for row in ROWS]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def rows_of(project: Path, params_with: ParamsWith) -> Load:
    """`rows_of(dataset, split, **keys of prepare)`: what `load` makes of it."""
    SOURCE.mkdir(parents=True)
    calls = iter(range(1000))

    def call(dataset: Any, split: str = "train", **keys: Any) -> list[dict[str, Any]]:
        changes = {"prepare.dataset": dataset, **{f"prepare.{key}": value for key, value in keys.items()}}
        key = "prepare.test_split" if "test_split" in keys and split == keys["test_split"] else "prepare.train_split"
        params = params_with({**changes, key: split}).prepare
        return [dict(row) for row in load(params, split, project / f"made-{next(calls)}")]

    return call


def taken(rows: list[dict[str, Any]]) -> list[tuple[str, str, list[str]]]:
    assert [row["fault"] for row in rows] == [None] * len(rows)
    return [(row["problem"], row["answer"], row["solutions"]) for row in rows]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put(name: str, content: bytes | str) -> str:
    path = SOURCE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def table(name: str, rows: list[dict[str, Any]], **options: Any) -> str:
    path = SOURCE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return str(path)


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def arrow(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    found = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(sink, found.schema) as writer:
        writer.write_table(found)
    return bytes(sink.getvalue())


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return bytes(sink.getvalue())


CSV = "problem,solution,answer\r\n" + "".join('"{problem}","{solution}",{answer}\r\n'.format(**row) for row in ROWS)


# ---------------------------------------------------------------------------------------------------------------------
# Formats

FORMATS = {
    "rows.jsonl": lines(ROWS),
    "unknown.name": lines(ROWS),
    "windows.jsonl": lines(ROWS).replace(b"\n", b"\r\n"),
    "marked.jsonl": b"\xef\xbb\xbf" + lines(ROWS),
    "empty-lines.jsonl": b"\n\n  \n" + lines(ROWS).replace(b"\n", b"\n\n"),
    "no-end.jsonl": lines(ROWS).rstrip(),
    "lines.json": lines(ROWS),
    "array.json": json.dumps(ROWS).encode(),
    "pretty.json": b"\n" + json.dumps(ROWS, indent=4).encode() + b"\n",
    "marked.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "rows.csv": CSV.encode(),
    "marked.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "semicolons.csv": CSV.replace(",", ";").encode(),
    "rows.tsv": CSV.replace(",", "\t").encode(),
    "rows.parquet": parquet(ROWS),
    "groups.parquet": parquet(ROWS, row_group_size=5),
    "rows.arrow": arrow(ROWS),
    "rows.jsonl.gz": gzip.compress(lines(ROWS)),
    "two-members.jsonl.gz": gzip.compress(lines(ROWS[:4])) + gzip.compress(lines(ROWS[4:])),
    "rows.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "rows.csv.gz": gzip.compress(CSV.encode()),
    "rows.jsonl.zst": zstd(lines(ROWS)),
    "rows.jsonl.bz2": bz2.compress(lines(ROWS)),
    "rows.jsonl.xz": lzma.compress(lines(ROWS)),
    "really-parquet.jsonl": parquet(ROWS),
    "really-gz.jsonl": gzip.compress(lines(ROWS)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_any_format_is_known_by_its_content(rows_of: Load, name: str) -> None:
    found = rows_of(put(name, FORMATS[name]))
    assert taken(found) == TAKEN
    assert [row["row"] for row in found] == list(range(len(ROWS)))
    assert {(row["source"], row["use"], row["kept"]) for row in found} == {(f"data/source/{name}", "both", "{}")}


def test_an_array_is_read_in_pieces(rows_of: Load) -> None:
    rows = [{**ROWS[0], "solution": 'a "quoted" ] } \\ text ' * 9000}, *ROWS[1:]] * 3  # elements beyond a piece
    found = rows_of(put("array.json", json.dumps(rows, indent=1)))
    assert [row["problem"] for row in found] == [row["problem"] for row in rows]


def test_a_line_separator_within_a_string_ends_no_line(project: Path) -> None:
    text = "a\u2028b\u2029c\x85d"
    Path("rows.jsonl").write_text(json.dumps({"question": text}, ensure_ascii=False), encoding="utf-8")
    assert read_lines(Path("rows.jsonl")) == [{"question": text}]


def test_memory_does_not_grow_with_the_rows(rows_of: Load) -> None:
    import tracemalloc

    peaks = []
    for number in (2_000, 20_000):
        path = put(f"{number}.jsonl", lines([{**ROWS[0], "solution": "word " * 200}]) * number)
        tracemalloc.start()
        rows = load_lazily(rows_of, path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert rows == number
    assert peaks[1] < 1.5 * peaks[0]  # 20 MB more text


def load_lazily(rows_of: Load, path: str) -> int:
    from tests.conftest import params_of

    params = params_of({"prepare.dataset": path}).prepare
    return len(load(params, "train", Path(path).with_suffix(".made")))


# ---------------------------------------------------------------------------------------------------------------------
# Folders


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "test.jsonl"),
        ("train.parquet", "test.parquet"),
        ("train.csv", "test.csv"),
        ("train.jsonl.gz", "test.jsonl"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("train/part.jsonl", "test/part.jsonl"),
        ("my_train.json", "my_test.json"),
    ],
)
def test_a_folder_of_splits(rows_of: Load, names: tuple[str, str]) -> None:
    for name, rows in zip(names, (ROWS[:8], ROWS[8:]), strict=True):
        content = {
            ".jsonl": lines(rows),
            ".json": lines(rows),
            ".csv": "problem,solution,answer\n" + "".join("{problem},{solution},{answer}\n".format(**r) for r in rows),
            ".gz": gzip.compress(lines(rows)),
            ".parquet": parquet(rows),
        }[Path(name).suffix]
        put(f"mine/{name}", content)
    put("mine/.cache/train.jsonl", b"{}")
    put("mine/README.md", "# Mine\n")
    assert taken(rows_of("data/source/mine")) == TAKEN[:8]
    assert taken(rows_of("data/source/mine", "test", test_split="test")) == TAKEN[8:]


def test_shards_come_in_the_order_of_their_numbers(rows_of: Load) -> None:
    for number in range(12):
        put(f"mine/train{number}.jsonl", lines([ROWS[number]]))
    assert taken(rows_of("data/source/mine")) == TAKEN


def test_files_without_a_split_in_their_names_are_training_data(rows_of: Load) -> None:
    put("mine/a.jsonl", lines(ROWS[:5]))
    put("mine/b.jsonl", lines(ROWS[5:]))
    assert taken(rows_of("data/source/mine")) == TAKEN


README = """---
license: apache-2.0
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: held_out
    path: [extra/one.parquet]
- config_name: other
  data_files: "other/**.jsonl"
---
# A clone
"""


def test_a_clone_of_a_hub_repository(rows_of: Load) -> None:
    put("clone/README.md", README)
    table("clone/data/train-00000-of-00002.parquet", ROWS[:3])
    table("clone/data/train-00001-of-00002.parquet", ROWS[3:6])
    table("clone/extra/one.parquet", ROWS[6:9])
    put("clone/other/deep/x.jsonl", lines(ROWS[9:]))
    assert taken(rows_of("data/source/clone")) == TAKEN[:6]
    assert taken(rows_of("data/source/clone", "held_out")) == TAKEN[6:9]
    assert taken(rows_of("data/source/clone", config="other")) == TAKEN[9:]
    with pytest.raises(InputError, match="default, other"):
        rows_of("data/source/clone", config="none")
    with pytest.raises(InputError, match="train, held_out"):
        rows_of("data/source/clone", "test")


def test_folders_of_save_to_disk(rows_of: Load) -> None:
    from datasets import Dataset, DatasetDict

    train, test = Dataset.from_list(ROWS[:8]), Dataset.from_list(ROWS[8:])
    DatasetDict({"train": train, "test": test}).save_to_disk("data/source/both")
    train.select(range(6)).save_to_disk("data/source/one")
    assert taken(rows_of("data/source/both")) == TAKEN[:8]
    assert taken(rows_of("data/source/both", "test", test_split="test")) == TAKEN[8:]
    assert taken(rows_of("data/source/one")) == TAKEN[:6]
    with pytest.raises(InputError, match="train, test"):
        rows_of("data/source/both", "validation")


@pytest.mark.parametrize(
    ("spec", "begin", "end"),
    [
        ("train[:5]", 0, 5),
        ("train[2:5]", 2, 5),
        ("train[:25%]", 0, 3),
        ("train[50%:75%]", 6, 9),
        ("train[-2:]", 10, 12),
        ("train[9:100]", 9, 12),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder", "saved"])
def test_slices_are_those_of_the_hub_everywhere(rows_of: Load, kind: str, spec: str, begin: int, end: int) -> None:
    from datasets import Dataset

    path = {"file": "rows.jsonl", "folder": "mine/train.jsonl", "saved": "unused.jsonl"}[kind]
    put(path, lines(ROWS))
    Dataset.from_list(ROWS).save_to_disk("data/source/saved")
    found = rows_of(
        {"file": "data/source/rows.jsonl", "folder": "data/source/mine"}.get(kind, "data/source/saved"), spec
    )
    assert taken(found) == TAKEN[begin:end]
    assert [row["row"] for row in found] == list(range(begin, end))  # of the split as it is stored


# ---------------------------------------------------------------------------------------------------------------------
# Layouts

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its "
    'own line after "Answer:".'
)
CHAT = [{"role": "system", "content": "Think."}, {"role": "user", "content": "Q?"}]
TRACE = "<think>\nOne.\n</think>\n\nSo \\boxed{\\frac{1}{2}}."
LAYOUTS: dict[str, tuple[dict[str, Any], str, tuple[str, str, list[str]]]] = {
    "OpenR1-Math": (
        {
            **{"problem": "Q?", "solution": "A person's.", "answer": "2", "messages": CHAT},
            **{"generations": ["wrong", TRACE, "cut"], "finish_reasons": None},
            "correctness_math_verify": [False, True, True],
            "is_reasoning_complete": [True, True, False],
        },
        "openr1-math",
        ("Q?", "2", [TRACE]),
    ),
    "Mixture-of-Thoughts": (
        {"messages": [*CHAT, {"role": "assistant", "content": TRACE}], "num_tokens": 9, "source": "s"},
        "messages",
        ("Q?", "\\frac{1}{2}", [TRACE]),
    ),
    "messages with a gold": (
        {"messages": [*CHAT, {"role": "assistant", "content": "It is 3."}], "expected_answer": 3},
        "messages",
        ("Q?", "3", ["It is 3."]),
    ),
    "messages with thoughts apart": (
        {
            "messages": [
                CHAT[1],
                {"role": "assistant", "reasoning_content": "One.", "content": "So \\boxed{\\frac{1}{2}}."},
            ]
        },
        "messages",
        ("Q?", "\\frac{1}{2}", [TRACE]),
    ),
    "GSM8K": (
        {"question": "Q?", "answer": "It is 3*4=<<3*4=12>>12.\nSo twelve.\n#### 12"},
        "gsm8k",
        ("Q?", "12", ["It is 3*4=12.\nSo twelve."]),
    ),
    "MATH": (
        {
            "problem": "Q?",
            "level": "Level 1",
            "type": "Algebra",
            "solution": "\\boxed{1}, no: $\\boxed{\\frac{1}{2}}$.",
        },
        "boxed",
        ("Q?", "\\frac{1}{2}", ["\\boxed{1}, no: $\\boxed{\\frac{1}{2}}$."]),
    ),
    "NuminaMath-CoT": (
        {"source": "amc", "problem": "Q?", "solution": "So $\\boxed{5}$.", "messages": CHAT},
        "boxed",
        ("Q?", "5", ["So $\\boxed{5}$."]),
    ),
    "NuminaMath-1.5": (
        {"problem": "Q?", "solution": "So $\\boxed{5}$.", "answer": "5", "problem_is_valid": "Yes"},
        "answer of `answer`",
        ("Q?", "5", ["So $\\boxed{5}$."]),
    ),
    "DAPO": (
        {
            **{
                "data_source": "math_dapo",
                "prompt": [{"role": "user", "content": DAPO.format("Q?")}],
                "ability": "MATH",
            },
            **{"reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"}, "extra_info": {"index": "9"}},
        },
        "verl",
        ("Q?", "34", []),
    ),
    "DAPO, processed": (
        {"prompt": "Q?", "solution": "34", "reward_model": {"ground_truth": "34", "style": "rule"}},
        "verl",
        ("Q?", "34", []),
    ),
    "verl's GSM8K": (
        {
            "prompt": [
                {"role": "user", "content": 'Q? Let\'s think step by step and output the final answer after "####".'}
            ],
            "reward_model": {"ground_truth": "34", "style": "rule"},
        },
        "verl",
        ("Q?", "34", []),
    ),
    "OpenThoughts": (
        {
            "system": "Think.",
            "conversations": [
                {"from": "user", "value": "Q?"},
                {
                    "from": "assistant",
                    "value": "<|begin_of_thought|>\nOne.\n<|end_of_thought|>\n\n"
                    "<|begin_of_solution|>\n\\boxed{7}\n<|end_of_solution|>",
                },
            ],
        },
        "conversations",
        ("Q?", "7", ["<think>\nOne.\n</think>\n\n\n\\boxed{7}\n"]),
    ),
    "OpenThoughts' metadata": (
        {
            **{"problem": "Q?", "deepseek_reasoning": "One.", "deepseek_solution": "So \\boxed{\\frac{1}{2}}."},
            **{"ground_truth_solution": "\\boxed{0.5}", "domain": "math"},
        },
        "open-thoughts",
        ("Q?", "0.5", [TRACE]),
    ),
    "DeepMath": (
        {"question": "Q?", "final_answer": "2", "r1_solution_1": "a", "r1_solution_2": "b", "r1_solution_3": "c"},
        "deepmath",
        ("Q?", "2", ["a", "b", "c"]),
    ),
    "DeepScaleR": (
        {"problem": "Q?", "answer": "-\\frac{2}{3}", "solution": "So it is."},
        "answer of `answer`",
        ("Q?", "-\\frac{2}{3}", ["So it is."]),
    ),
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_said(
    rows_of: Load, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    row, says, expected = LAYOUTS[name]
    path = put("rows.jsonl", lines([row] * 3)) if kind == "jsonl" else table("rows.parquet", [row] * 3)
    assert taken(rows_of(path)) == [expected] * 3
    assert says in capsys.readouterr().out


def test_problems_without_solutions(rows_of: Load) -> None:
    path = put("rows.jsonl", lines([{"problem": "Q?", "answer": "5", "llama8b_solve_rate": 0.5}]))  # Big-Math
    columns = {"problem": "problem", "answer": "answer", "solution": "solution", "keep": ["llama8b_solve_rate"]}
    with pytest.raises(InputError, match="`use: grpo`"):
        rows_of(path, columns=columns)
    traces = put("traces.jsonl", lines(ROWS[:1]))
    sources = [{"dataset": path, "use": "grpo", "columns": columns}, {"dataset": traces, "use": "sft"}]
    found = rows_of(sources)
    assert taken(found) == [("Q?", "5", []), TAKEN[0]]
    assert json.loads(found[0]["kept"]) == {"llama8b_solve_rate": 0.5}


def test_columns_that_are_named_win_over_a_layout(rows_of: Load) -> None:
    path = put("rows.jsonl", lines([{"question": "Q?", "answer": "So.\n#### 5"}]))
    columns = {"problem": "question", "solution": "answer", "answer": "answer", "keep": []}
    assert taken(rows_of(path, columns=columns)) == [("Q?", "So.\n#### 5", ["So.\n#### 5"])]
    assert taken(rows_of(path, columns=columns, layout="gsm8k")) == [("Q?", "5", ["So."])]
    with pytest.raises(InputError, match="which layout verl reads"):
        rows_of(path, layout="verl")


def test_columns_may_be_paths(rows_of: Load) -> None:
    row = {"chat": [{"text": "Q?"}, {"text": "Because."}], "reward": {"gold": 5, "tests": ["t"]}, "a.b": "x"}
    columns = {
        "problem": "chat[0].text",
        "solution": "chat[-1].text",
        "answer": "reward.gold",
        "keep": ["reward.tests", "a.b"],
    }
    for path in (put("rows.jsonl", lines([row])), table("rows.parquet", [row])):
        (found,) = rows_of(path, columns=columns)
        assert taken([found]) == [("Q?", "5", ["Because."])]
        assert json.loads(found["kept"]) == {"reward.tests": ["t"], "a.b": "x"}
    with pytest.raises(LookupError):
        value_at(row, "chat[5].text")


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (27.0, "27"), (0.5, "0.5"), (-3, "-3"), (["x"], "x"), (" 1/2 ", " 1/2 "), (10**30, "1" + "0" * 30)],
)
def test_answers_as_text(value: Any, text: str) -> None:
    assert answer_of(value, "answer") == text


@pytest.mark.parametrize("value", [None, "", "  ", True, float("nan"), float("inf"), [1, 2], {}, "\ud83d"])
def test_what_is_no_answer(value: Any) -> None:
    with pytest.raises(FaultyRow):
        answer_of(value, "answer")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{1}, so at last \\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\fbox{3}", "3"),
        ("\\boxed 5.", "5"),
        ("\\boxed{1} then \\boxed{never closed", ""),
        ("none", ""),
        ("\\boxed", ""),
    ],
)
def test_the_last_box(text: str, found: str) -> None:
    assert boxed_in(text) == found


def test_instructions_are_cut_and_problems_are_not() -> None:
    assert without_instruction(DAPO.format("Find $x$.")) == "Find $x$."
    assert (
        without_instruction("Find $x$. Please reason step by step, and put your final answer within \\boxed{}.")
        == "Find $x$."
    )
    assert (
        without_instruction("Let's think step by step about trees. How many?")
        == "Let's think step by step about trees. How many?"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Mixtures


@pytest.mark.parametrize(
    ("available", "weights", "expected"),
    [
        ([100, 100], [3, 1], [100, 33]),
        ([100, 10], [3, 1], [30, 10]),
        ([5, 5, 5], [1, 1, 1], [5, 5, 5]),
        ([0, 9], [1, 1], [0, 0]),
    ],
)
def test_the_largest_mixture_with_the_shares(available: list[int], weights: list[float], expected: list[int]) -> None:
    assert sizes(available, weights) == expected


def test_a_weighted_mixture_is_chosen_by_hash_and_said(rows_of: Load, capsys: pytest.CaptureFixture[str]) -> None:
    many = [{**ROWS[0], "problem": f"problem {n}"} for n in range(100)]
    first, second = put("a.jsonl", lines(many)), put("b.jsonl", lines([*ROWS[:10], {"problem": None}]))
    sources = [{"dataset": first, "weight": 3, "name": "a"}, {"dataset": second, "weight": 1, "name": "b"}]
    found = rows_of(sources)
    assert [sum(row["source"] == name and row["fault"] is None for row in found) for name in "ab"] == [30, 10]
    assert [row["fault"] for row in found if row["fault"]] == ["no `problem`: null"]  # said, and of no share
    said = capsys.readouterr().out
    assert "a: 30 rows, 75.0% of the mixture" in said
    put("a.jsonl", lines(many[::-1]))
    assert {row["problem"] for row in rows_of(sources)} == {row["problem"] for row in found}


def test_sources_for_sft_and_for_grpo(rows_of: Load) -> None:
    traces = put(
        "traces.jsonl", lines([{"problem": "Q?", "solution": "So.", "answer": None}, {"problem": "R?", "solution": ""}])
    )
    prompts = put("prompts.jsonl", lines([{"question": "P?", "gold": 5}]))
    grpo = {"problem": "question", "solution": "solution", "answer": "gold", "keep": []}
    found = rows_of([{"dataset": traces, "use": "sft"}, {"dataset": prompts, "use": "grpo", "columns": grpo}])
    assert [(r["problem"], r["answer"], r["solutions"], r["use"], r["fault"]) for r in found] == [
        ("Q?", "", ["So."], "sft", None),
        ("", "", [], "sft", "no solution: and the source is for SFT"),
        ("P?", "5", [], "grpo", None),
    ]


def test_a_source_may_have_no_part_in_the_held_out_problems(rows_of: Load) -> None:
    put("a/train.jsonl", lines(ROWS[:4]))
    put("a/test.jsonl", lines(ROWS[4:6]))
    put("b.jsonl", lines(ROWS[6:]))
    sources = [{"dataset": "data/source/a"}, {"dataset": "data/source/b.jsonl", "test_split": None}]
    assert taken(rows_of(sources, test_split="test")) == [*TAKEN[:4], *TAKEN[6:]]
    assert taken(rows_of(sources, "test", test_split="test")) == TAKEN[4:6]


# ---------------------------------------------------------------------------------------------------------------------
# Faulty rows

GOOD = lines(ROWS[:2])
FAULTY_ROWS: dict[str, tuple[str, bytes, str]] = {
    "null answer": ("a.jsonl", lines([{**ROWS[0], "answer": None}]), "no `answer`: null"),
    "empty problem": ("a.jsonl", lines([{**ROWS[0], "problem": " "}]), "no `problem`: empty"),
    "a number as problem": ("a.jsonl", lines([{**ROWS[0], "problem": 3}]), "`problem` is no text: 3"),
    "true as answer": ("a.jsonl", lines([{**ROWS[0], "answer": True}]), "`answer` is no text: True"),
    "NaN as answer": ("a.jsonl", b'{"problem": "a", "solution": "b", "answer": NaN}\n', "`answer` is no text: nan"),
    "two answers": ("a.jsonl", lines([{**ROWS[0], "answer": ["1", "2"]}]), "`answer` is no text: ['1', '2']"),
    "object as solution": ("a.jsonl", lines([{**ROWS[0], "solution": {"a": 1}}]), "`solution` is no text"),
    "a column missing": ("a.jsonl", lines([{"problem": "x", "solution": "y"}]), "no `answer`: no such column"),
    "half a surrogate pair": ("a.jsonl", lines([{**ROWS[0], "problem": "\ud83d"}]), "half of a surrogate pair"),
    "cut JSON": ("a.jsonl", b'{"problem": "b\n', "no JSON: a.jsonl line 3: Unterminated string"),
    "no JSON": ("a.jsonl", b"hello\n", "no JSON: a.jsonl line 3"),
    "a list": ("a.jsonl", b'["b", "2"]\n', "no JSON object: a.jsonl line 3: list"),
    "a key twice": ("a.jsonl", b'{"problem": "a", "answer": "1", "answer": "2"}\n', "a key twice in one object"),
    "deep JSON": ("a.jsonl", b'{"problem": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "JSON nested too deeply"),
    "a long integer": (
        "a.jsonl",
        b'{"problem": "a", "answer": ' + b"7" * 5000 + b"}\n",
        "more digits than Python reads",
    ),
    "a control character": ("a.jsonl", b'{"problem": "a\x01"}\n', "Invalid control character"),
    "Latin-1": ("a.jsonl", b'{"problem": "caf\xe9"}\n', "iconv -f LATIN1 -t UTF-8"),
    "ragged CSV": ("a.csv", b"", "another number of fields than the header: a.csv line 4: 2 and not 3"),
    "Latin-1 in CSV": ("b.csv", b"", "byte 4 is 0xe9"),
}
CSVS = {
    "a.csv": b"problem,solution,answer\nx,y,1\nx,y,2\nx,y\n",
    "b.csv": b"problem,solution,answer\nx,y,1\nx,y,2\ncaf\xe9,y,3\n",
}


@pytest.mark.parametrize("name", FAULTY_ROWS)
def test_a_faulty_row_is_told_and_ends_nothing(rows_of: Load, name: str) -> None:
    file, content, says = FAULTY_ROWS[name]
    after = b"" if file.endswith("csv") else GOOD
    found = rows_of(put(file, CSVS.get(file, GOOD + content + after)))
    assert [row["row"] for row in found] == list(range(len(found)))
    assert [number for number, row in enumerate(found) if row["fault"]] == [2]
    faulty = found[2]
    assert says in faulty["fault"]
    assert (faulty["problem"], faulty["answer"], faulty["solutions"]) == ("", "", [])
    assert faulty["fault"].isprintable()


def test_text_of_parquet_that_is_no_utf8_is_a_fault_of_its_row(rows_of: Load) -> None:
    texts = [b"a", b"caf\xe9", b"c"]
    wrong = pa.Array.from_buffers(pa.string(), 3, pa.array(texts, pa.binary()).buffers())
    right = pa.array(["x", "y", "z"])
    (SOURCE / "a").mkdir()
    pq.write_table(pa.table({"problem": wrong, "solution": right, "answer": right}), SOURCE / "a.parquet")
    found = rows_of("data/source/a.parquet")
    assert [row["problem"] for row in found] == ["a", "", "c"]
    assert "not UTF-8" in found[1]["fault"]


def test_an_array_goes_on_after_a_faulty_element(rows_of: Load) -> None:
    good = json.dumps(ROWS[0])
    text = f'[{good}, 5, {{"a": 1, "a": 2}}, {{"answer": {"7" * 5000}}}, {good}]'
    found = rows_of(put("a.json", text))
    assert [row["fault"] is None for row in found] == [True, False, False, False, True]


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be used at all


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def unreadable(path: Path) -> None:
    path.write_bytes(GOOD)
    path.chmod(0)


def loop_folder(path: Path) -> None:
    path.mkdir()
    (path / "loop").symlink_to(path.absolute())


def shards(path: Path) -> None:
    table(f"{path.name}/train-00000-of-00003.parquet", ROWS[:2])
    table(f"{path.name}/train-00002-of-00003.parquet", ROWS[:2])


def broken_shard(path: Path) -> None:
    table(f"{path.name}/train-00000-of-00002.parquet", ROWS[:2])
    put(f"{path.name}/train-00001-of-00002.parquet", parquet(ROWS)[:-30])


def encrypted(path: Path) -> None:
    import pyarrow.parquet.encryption as pe

    class Client(pe.KmsClient):
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return b"wrapped"

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            return b"0" * 16

    factory = pe.CryptoFactory(lambda _: Client())
    config = pe.EncryptionConfiguration(footer_key="k", column_keys={"c": ["problem"]})
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    pq.write_table(pa.Table.from_pylist(ROWS), path, encryption_properties=properties)


def saved_by_halves(path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(str(path))
    (path / "data-00000-of-00001.arrow").write_bytes(b"")


def clone_of_pointers(path: Path) -> None:
    put(f"{path.name}/data/train-00000-of-00001.parquet", POINTER)


def two_splits(path: Path) -> None:
    put(f"{path.name}/train.jsonl", GOOD)
    put(f"{path.name}/train.csv", CSV)


def mixed_shards(path: Path) -> None:
    put(f"{path.name}/train-0.jsonl", GOOD)
    put(f"{path.name}/train-1.csv", CSV)


def linked_folder(path: Path) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/train.jsonl").write_bytes(GOOD)
    path.symlink_to(Path("elsewhere").absolute())


def linked_within(path: Path) -> None:
    linked_folder(SOURCE / "other")
    path.mkdir()
    (SOURCE / "other").rename(path / "train")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
CUT = gzip.compress(lines(ROWS * 200))[:-200]
UNUSABLE: dict[str, tuple[str, bytes | Callable[[Path], None] | None, str]] = {
    "nothing": ("a.jsonl", None, "no such file"),
    "empty": ("a.jsonl", b"", "no rows"),
    "empty lines": ("a.jsonl", b"\n \n", "no rows"),
    "only faults": ("a.jsonl", b"hello\n", "no JSON: a.jsonl line 1"),
    "wrong columns": ("a.jsonl", b'{"questions": "a", "Answer": "1"}\n', "did you mean `questions`"),
    "no columns": ("a.jsonl", b"{}\n", "columns none"),
    "FIFO": ("a.jsonl", fifo, "a pipe, socket or device"),
    "socket": ("a.jsonl", unix_socket, "a pipe, socket or device"),
    "device": ("a.jsonl", lambda path: path.symlink_to("/dev/zero"), "a pipe, socket or device"),
    "folder with a file's name": ("x.jsonl", Path.mkdir, "files none"),
    "FIFO in a folder": ("mine", lambda path: (path.mkdir(), fifo(path / "train.jsonl"))[0], "a pipe, socket"),
    "broken link": ("a.jsonl", lambda path: path.symlink_to("nowhere"), "a link to what is not there"),
    "link to itself": ("a.jsonl", lambda path: path.symlink_to("a.jsonl"), "a link that leads to itself"),
    "folder linked in itself": ("mine", loop_folder, "files loop"),
    "unreadable": ("a.jsonl", unreadable, "permission denied"),
    "UTF-16": ("a.jsonl", GOOD.decode().encode("utf-16"), "iconv -f UTF-16 -t UTF-8 a.jsonl"),
    "UTF-16 without a mark": ("a.jsonl", GOOD.decode().encode("utf-16-le"), "text in UTF-16LE"),
    "UTF-16 CSV": ("a.csv", CSV.encode("utf-16"), "text in UTF-16"),
    "UTF-32": ("a.jsonl", GOOD.decode().encode("utf-32"), "text in UTF-32"),
    "Latin-1 all over": ("a.jsonl", '{"problem": "é"}\n'.encode("latin-1"), "iconv -f LATIN1"),
    "zip": ("a.jsonl", b"PK\x03\x04" + bytes(60), "a zip archive"),
    "PDF": ("a.jsonl", b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
    "SQLite": ("a.jsonl", b"SQLite format 3\0" + bytes(60), "an SQLite database"),
    "pickle": ("a.jsonl", b"\x80\x04\x95\x10\0\0\0", "a pickle"),
    "binary": ("a.jsonl", bytes(range(256)), "a binary file"),
    "web page": ("a.parquet", b"<!DOCTYPE html><html>404", "a web page"),
    "LFS pointer": ("a.parquet", POINTER.encode(), "git lfs pull"),
    "clone of pointers": ("clone", clone_of_pointers, "git lfs pull"),
    "cut gz": ("a.jsonl.gz", CUT, "broken after line"),
    "garbled gz": ("a.jsonl.gz", CUT[:40] + b"\0" * 40 + CUT[80:], "broken after line"),
    "cut zst": ("a.jsonl.zst", zstd(lines(ROWS * 200))[:-20], "broken after line"),
    "cut xz": ("a.jsonl.xz", lzma.compress(lines(ROWS * 200))[:-20], "broken after line"),
    "cut bz2": ("a.jsonl.bz2", bz2.compress(lines(ROWS * 200))[:-20], "broken after line"),
    "gz of Parquet": ("a.parquet.gz", gzip.compress(parquet(ROWS)), "a compressed Parquet file"),
    "zip bomb": ("a.jsonl.gz", gzip.compress(bytes(200 << 20), 1), "a line of more than 64 MiB"),
    "huge line": ("a.jsonl", b'{"problem": "' + b"x" * (65 << 20), "a line of more than 64 MiB"),
    "cut Parquet": ("a.parquet", parquet(ROWS)[:-30], "broken Parquet"),
    "Parquet's first bytes": ("a.parquet", b"PAR1", "broken Parquet"),
    "Parquet without rows": ("a.parquet", parquet(ROWS[:1]).replace(b"", b""), ""),
    "encrypted Parquet": ("a.parquet", encrypted, "an encrypted Parquet file"),
    "cut Arrow": ("a.arrow", arrow(ROWS)[:-40], "broken Arrow"),
    "shard missing": ("mine", shards, "number 1 is missing"),
    "shard broken": ("mine", broken_shard, "broken Parquet"),
    "two files of a split": ("mine", two_splits, "train.csv and train.jsonl, both of split `train`"),
    "shards of two formats": ("mine", mixed_shards, "shards in .csv and .jsonl"),
    "saved by halves": ("mine", saved_by_halves, "what `load_from_disk` cannot read"),
    "README without YAML": ("mine", lambda path: put("mine/README.md", "---\nconfigs: [\n---\n") and None, "README.md"),
    "array without end": ("a.json", b'[{"problem": "a"}, {"problem": "b"}', "no comma after element"),
    "array with a fault": ("a.json", b'[{"problem": "a"}, oops]', "element 2"),
    "deep array": ("a.json", b"[" * 100_000, "JSON nested too deeply"),
    "two arrays": ("a.json", b"[{}] [{}]", "more after the end"),
    "pretty object": ("a.json", b'{\n "train": []\n}', "no JSON: a.json line 1"),
    "quote without end": ("a.csv", b'problem,solution,answer\nx,y,"1\n', "CSV with pairs of quotes"),
    "header twice": ("a.csv", b"problem,problem\n1,2\n", "column `problem` twice"),
    "linked folder": ("linked", linked_folder, "cp -rs"),
    "folder linked within": ("mine", linked_within, "cp -rs"),
    "control characters in names": ("a.jsonl", b'{"\\u001b[31mred\\u0007": 1}\n', "\\x1b[31mred\\x07"),
}
del UNUSABLE["Parquet without rows"]


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_says_so_and_what_to_do(
    rows_of: Load, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, made, says = UNUSABLE[name]
    if name == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads everything")
    if callable(made):
        made(SOURCE / file)
    elif made is not None:
        put(file, made)
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        rows_of(f"data/source/{file}")
    assert time.process_time() - began < 5
    assert caught.value.exit_code == EXIT_WRONG_INPUT
    assert says in str(caught.value)
    told = (caught.value.where, caught.value.got, caught.value.wanted, caught.value.do, capsys.readouterr().out)
    assert all(line.isprintable() for part in told for line in part.splitlines())
    assert "iconv" not in caught.value.do or "text in UTF" in caught.value.got


def test_parquet_without_rows_or_with_columns_of_objects(rows_of: Load) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), SOURCE / "none.parquet")
    with pytest.raises(InputError, match="no rows"):
        rows_of("data/source/none.parquet")
    table("objects.parquet", [{"problem": {"text": "Q?"}, "solution": "s", "answer": "1"}])
    (row,) = rows_of("data/source/objects.parquet")
    assert row["fault"] == "`problem` is no text: {'text': 'Q?'}"


def test_a_control_character_in_a_files_name_reaches_no_terminal(
    rows_of: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[2Jrows.jsonl"
    assert taken(rows_of(put(name, lines(ROWS)))) == TAKEN
    assert "\x1b" not in capsys.readouterr().out
    with pytest.raises(InputError) as caught:
        rows_of(put(name, b"\n"))
    assert "\x1b" not in str(caught.value)


def test_a_wrong_column_is_told_with_likely_ones_and_the_layout(rows_of: Load) -> None:
    path = put("rows.jsonl", lines([LAYOUTS["DAPO"][0]]))
    with pytest.raises(InputError) as caught:
        rows_of(path, layout="columns")
    assert "`prompt`" in caught.value.do
    assert "set prepare.layout to verl" in caught.value.do
    assert "reward_model.ground_truth" in caught.value.got


@pytest.mark.parametrize(
    "spec", ["train[", "train[1:2", "train[a:b]", "train[:5]+test", "train[50%:20%]", "train[12:]", ""]
)
def test_a_slice_that_is_none(rows_of: Load, spec: str) -> None:
    put("rows.jsonl", lines(ROWS))
    with pytest.raises(InputError):
        rows_of("data/source/rows.jsonl", spec)


def test_a_file_has_one_split(rows_of: Load) -> None:
    path = put("rows.jsonl", lines(ROWS))
    with pytest.raises(InputError) as caught:
        rows_of(path, "test", test_split="test")
    assert "one split, `train`, and `test` is asked for" in caught.value.got
    assert "test_split to null" in caught.value.do


@pytest.mark.parametrize("dataset", ["rows.jsonl", "./rows.jsonl", "data/rows.jsonl", "data/source/../rows.jsonl"])
def test_data_whose_changes_dvc_would_not_see_is_refused(rows_of: Load, project: Path, dataset: str) -> None:
    for place in ("rows.jsonl", "data/rows.jsonl"):
        (project / place).write_bytes(GOOD)
    with pytest.raises(InputError) as caught:
        rows_of(dataset)
    assert f"run `cp -rs {project}" in caught.value.do
    os.system(caught.value.do.split("`")[1])
    assert len(rows_of(caught.value.do.rpartition("name ")[2])) == 2


@pytest.mark.parametrize(
    "dataset", ["rows.jsonl", "sub/rows.jsonl", "./data/x", "/nowhere/data", "~/nowhere", "data/source/x"]
)
def test_a_path_that_is_not_there(rows_of: Load, dataset: str) -> None:
    with pytest.raises(InputError) as caught:
        rows_of(dataset)
    assert Path(caught.value.where) == Path(dataset)
    assert "no such file" in caught.value.got


# ---------------------------------------------------------------------------------------------------------------------
# The Hub


def test_a_hub_name_needs_a_commit_and_no_network_to_say_so(rows_of: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", reached)
    monkeypatch.setattr(socket, "getaddrinfo", reached)
    with pytest.raises(InputError) as caught:
        rows_of("owner/name")
    assert "prepare.revision" in caught.value.where
    assert "owner/name" in caught.value.wanted


def test_a_hub_that_cannot_be_reached_is_said_at_once(rows_of: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(InputError, match="owner/name"):  # offline by choice, and not in the cache
        rows_of("owner/name", revision=COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        rows_of("owner/name", revision=COMMIT)
    assert time.monotonic() - began < 10
    assert "cannot be reached" in caught.value.got


# ---------------------------------------------------------------------------------------------------------------------
# Patterns


@pytest.mark.parametrize(
    "pattern", [r"(\w+\s?)+$", r"(a|aa)+$", r"(.*)*x", r"(x+x+)+y", r"^(([a-z])+.)+[A-Z]([a-z])+$"]
)
def test_a_pattern_without_end_is_stopped(pattern: str) -> None:
    bounded = Bounded("prepare.answer_pattern", pattern)
    for text in ("a" * 60 + "!", "x" * 60, "word " * 30 + "!"):
        began = time.monotonic()
        try:
            bounded.search(text)
            bounded.sub("", text)
        except InputError as error:
            assert error.where == "params.yaml: prepare.answer_pattern"  # noqa: PT017 (a pattern may also end)
        assert time.monotonic() - began < 30


def test_patterns_mean_what_they_mean_in_re() -> None:
    assert Bounded("k", r"####\s*(.+)").search("a\n#### 12\nb")[1] == "12"
    assert Bounded("k", r"####(?: (\d+))?").search("####")[1] is None
    assert Bounded("k", r"####").search("12") is None
    assert Bounded("k", r"<<[^>]*>>").sub("", "3*4=<<3*4=12>>12") == "3*4=12"
    assert Bounded("k", r"(\d)").sub(lambda match: f"<{match[1]}>", "a1") == "a<1>"


def test_prepare_stops_at_a_pattern_without_end(rows_of: Load, params_with: ParamsWith) -> None:
    put("rows.jsonl", lines([*ROWS, {**ROWS[0], "problem": "long", "answer": "a" * 60 + "!"}]))
    for key in ("answer_pattern", "drop_pattern"):
        put("rows.jsonl", lines([*ROWS, {"problem": "long", "answer": "1" * 60 + "!", "solution": "1" * 60 + "!"}]))
        params = params_with({"prepare.dataset": "data/source/rows.jsonl", f"prepare.{key}": r"((?:1|11)+)$"})
        with pytest.raises(InputError, match=f"prepare.{key}\n.*no end after"):
            prepare.run(params)


def test_rows_of_a_file_are_read_as_they_are_asked_for(project: Path) -> None:
    path = project / "a.jsonl"
    path.write_bytes(GOOD * 1000 + b"hello")
    assert next(iter(read_rows(path))) == ROWS[0]
