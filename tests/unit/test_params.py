"""The schema of params.yaml: what ships is valid, and every wrong file is one message that a person can act on."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.errors import InputError
from posttrain.params.file import check_params, load_params, read_yaml
from posttrain.params.health import Health
from posttrain.params.launch import VLLM, Launch

REMOVED = object()


@pytest.fixture
def shipped(root: Path) -> dict[str, Any]:
    """The shipped params as plain data, free to change."""
    return read_yaml(root / "params.yaml")


def changed(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        section = data
        for name in sections:
            section = section.setdefault(name, {})
        if value is REMOVED:
            del section[key]
        else:
            section[key] = value
    return data


def refusal(data: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        check_params(data, Path("params.yaml"))
    error = caught.value
    for label, text in (("got", error.got), ("wanted", error.wanted), ("do", error.do)):
        assert text, label
        assert f"\n  {label:8}{text}" in str(error)
    assert str(error).startswith(error.where)
    return error


def test_the_shipped_params_arrive_unchanged(root: Path, shipped: dict[str, Any]) -> None:
    # Equality also says that no value was converted or left out.
    assert check_params(shipped, Path("params.yaml")).model_dump(exclude_unset=True) == shipped
    assert load_params(root / "params.yaml") == check_params(shipped, Path("params.yaml"))


@pytest.mark.parametrize("name", ["answer", "problem", "id", "contaminated", "prompts", "completions", "tokens"])
def test_a_column_to_keep_may_not_lose_its_values_to_another(name: str, shipped: dict[str, Any]) -> None:
    """GSM8K's `answer` is the whole solution, and a row's `answer` the gold of it."""
    error = refusal(changed(shipped, {"prepare.columns.keep": ["level", name]}))
    assert error.where == "params.yaml: prepare.columns.keep"
    assert f"`{name}`" in str(error)
    assert "rename the column" in str(error)


# ---------------------------------------------------------------------------------------------------------------------
# Defaults: hardware and thresholds have them, science has none


def keys_of(section: dict[str, Any], prefix: str = "") -> list[str]:
    """Every section and every key, dotted."""
    found = []
    for name, value in section.items():
        found += [prefix + name, *(keys_of(value, f"{prefix}{name}.") if isinstance(value, dict) else [])]
    return found


SHIPPED = keys_of(read_yaml(Path(__file__).parents[2] / "params.yaml"))
OPTIONAL = {key for key in SHIPPED if key.split(".")[0] == "launch" or key.startswith("grpo.health")}


@pytest.mark.parametrize(
    "key", [key for key in SHIPPED if key not in OPTIONAL and not re.fullmatch(r"rewards\.\w+", key)]
)
def test_science_has_no_default(shipped: dict[str, Any], key: str) -> None:
    error = refusal(changed(shipped, {key: REMOVED}))
    assert error.where == f"params.yaml: {key}"
    assert error.got == "no such key"
    assert "the schema has no defaults but those of `launch` and `grpo.health`" in error.wanted


NAMED = {"launch", "launch.device", "launch.processes"}
"""Left to the machine by default, and named by what ships."""


@pytest.mark.parametrize("key", sorted(OPTIONAL - NAMED))
def test_a_default_is_what_ships(shipped: dict[str, Any], key: str) -> None:
    before = check_params(shipped, Path("params.yaml"))
    assert check_params(changed(shipped, {key: REMOVED}), Path("params.yaml")) == before


def test_defaults_are_within_the_ranges_and_of_the_types_that_a_file_gives() -> None:
    for section in (Health(), Launch()):
        again = type(section).model_validate_json(section.model_dump_json())
        assert again.model_dump_json() == section.model_dump_json()


@pytest.mark.parametrize(
    ("changes", "written", "kept"),
    [
        ({"grpo.health.kl_divergence": {"action": "stop"}}, {"action": "stop"}, {"above": 0.05}),
        ({"grpo.health.kl_divergence": {"above": 0.5}}, {"above": 0.5}, {"action": "warn"}),
        ({"grpo.health.not_finite": {}}, {}, {"action": "stop"}),
        (
            {"grpo.health.flat_accuracy": {"rows": 5}},
            {"rows": 5},
            {"action": "warn", "format_above": 0.95, "accuracy_below": 0.7, "gain": 0.02},
        ),
    ],
)
def test_a_rule_written_in_part_keeps_the_rest(
    shipped: dict[str, Any], changes: dict[str, Any], written: dict[str, Any], kept: dict[str, Any]
) -> None:
    before = check_params(shipped, Path("params.yaml")).grpo.health.model_dump()
    after = check_params(changed(shipped, changes), Path("params.yaml")).grpo.health.model_dump()
    [name] = [key.rpartition(".")[2] for key in changes]
    assert after == {**before, name: {**written, **kept}}


def test_launch_written_in_part_keeps_the_rest(shipped: dict[str, Any]) -> None:
    shipped["launch"] = {"machines": 2, "vllm": {"gpus": [], "mode": "server"}}
    assert check_params(shipped, Path("params.yaml")).launch.model_dump() == {
        **Launch().model_dump(),
        "machines": 2,
        "vllm": {**VLLM().model_dump(), "gpus": [], "mode": "server"},
    }


def test_a_variable_stands_in_for_a_key_that_the_file_does_not_have(
    project: Path, shipped: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("params.yaml").write_text(json.dumps(changed(shipped, {"launch": REMOVED})))
    monkeypatch.setenv("POSTTRAIN_LAUNCH_THREADS", "3")
    monkeypatch.setenv("POSTTRAIN_LAUNCH_VLLM", "{server_port: 8001}")
    launch = load_params(Path("params.yaml")).launch
    assert launch == Launch(threads=3, vllm=VLLM(server_port=8001))


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("key", "value", "got", "wanted"),
    [
        ("grpo.beta", REMOVED, "no such key", "a value"),
        ("grpo", REMOVED, "no such key", "a value"),
        ("prepare.equations.teacher.operation_slip_frac", REMOVED, "no such key", "a value"),
        ("sft.optimizer_colour", 1, "unknown", "learning_rate"),  # nothing near: the known keys
        ("fluff", 1, "unknown", "seed, model, prompts"),
        ("grpo.num_generation", 4, "unknown", "did you mean `num_generations`?"),
        ("prepare.equations.teacher.operation_slip", 0.1, "unknown", "did you mean `operation_slip_frac`?"),
        ("evalute", {}, "unknown", "did you mean `evaluate`?"),
        ("grpo.health.windows", 5, "unknown", "did you mean `window`?"),
        ("grpo.health.kl_divergences", {"action": "stop"}, "unknown", "did you mean `kl_divergence`?"),
        ("grpo.health.kl_divergence.abov", 0.5, "unknown", "did you mean `above`?"),
        ("grpo.health.kl_divergence.above", 0, "0", "greater than 0"),
        ("grpo.health.kl_divergence.action", "halt", "'halt'", "'warn', 'stop', 'rollback' or 'off'"),
        ("grpo.health.kl_divergence", 0.5, "0.5", "dictionary"),
        ("grpo.health", None, "None", "dictionary"),
        ("launch.thread", 2, "unknown", "did you mean `threads`?"),
        ("launch.threads", -1, "-1", "greater than or equal to 0"),
        ("launch.vllm.server_prt", 8001, "unknown", "did you mean `server_port`?"),
        ("launch.vllm.server_port", 0, "0", "greater than or equal to 1"),
        ("launch", None, "None", "dictionary"),
        ("seed", -1, "-1", "greater than or equal to 0"),
        ("seed", 2**31, "2147483648", "less than 2147483648"),
        ("grpo.num_generations", 1, "1", "greater than or equal to 2"),
        ("grpo.top_p", 1.5, "1.5", "less than or equal to 1"),
        ("grpo.top_p", 0, "0", "greater than 0"),
        ("grpo.learning_rate", 0, "0", "greater than 0"),
        ("prepare.test_frac", 1, "1", "less than 1"),
        ("prepare.max_train", 0, "0", "greater than or equal to 1"),
        ("prepare.dataset", "", "''", "at least 1 character"),
        ("model.scratch.vocab_size", 299, "299", "greater than or equal to 300"),
        ("grpo.learning_rate", float("inf"), "inf", "finite"),
        ("rewards.format.weight", float("nan"), "nan", "finite"),
        ("rewards.format.weight", float("-inf"), "-inf", "finite"),
        ("evaluate.gate.min_gain", float("nan"), "nan", "finite"),
        ("prepare.answer_pattern", "#### (.+", "'#### (.+'", "regular expression"),
        ("prepare.answer_pattern", "####", "'####'", "group"),  # group 1 is the gold, and there is none
        ("prepare.drop_pattern", "*", "'*'", "regular expression"),
        ("grpo.max_steps", "many", "'many'", "integer"),
        ("grpo.max_steps", 1.5, "1.5", "integer"),
        ("grpo.temperature", None, "None", "number"),
        ("grpo.loss_type", "ppo", "'ppo'", "'dapo', 'grpo', 'dr_grpo', 'bnpo', 'cispo', 'sapo', 'luspo' or 'vespo'"),
        ("model.trust_remote_code", "perhaps", "'perhaps'", "boolean"),
        ("prompts.system", 3, "3", "string"),
        ("evaluate.gate", 0.2, "0.2", "dictionary"),
    ],
)
def test_a_wrong_key_is_named_with_what_it_is_and_what_it_should_be(
    shipped: dict[str, Any], key: str, value: Any, got: str, wanted: str
) -> None:
    error = refusal(changed(shipped, {key: value}))
    assert error.where == f"params.yaml: {key}"
    assert got in error.got
    assert wanted in error.wanted
    assert key in error.do
    assert "params.yaml" in error.do


@pytest.mark.parametrize(
    ("changes", "where", "named"),
    [
        # 100 is a multiple of 4 and none of 2 x 4: rotary embeddings rotate pairs within each head.
        (
            {"model.scratch.hidden_size": 100, "model.scratch.num_attention_heads": 4},
            "model.scratch",
            ["hidden_size", "100", "num_attention_heads", "4"],
        ),
        # 4 query heads cannot share 3 key-value heads equally.
        (
            {
                "model.scratch.hidden_size": 96,
                "model.scratch.num_attention_heads": 4,
                "model.scratch.num_key_value_heads": 3,
            },
            "model.scratch",
            ["num_attention_heads", "4", "num_key_value_heads", "3"],
        ),
        ({"sft.logging_steps": 26, "sft.max_steps": 25}, "sft", ["logging_steps", "26", "max_steps", "25"]),
        ({"launch.vllm.gpus": [0, 1]}, "launch.vllm", ["tensor_parallel_size", "1", "gpus"]),
        (
            {"evaluate.temperature": 0, "evaluate.num_samples": 3},
            "evaluate",
            ["temperature", "num_samples", "3"],
        ),
    ],
)
def test_keys_that_do_not_fit_together_are_named_together(
    shipped: dict[str, Any], changes: dict[str, Any], where: str, named: list[str]
) -> None:
    error = refusal(changed(shipped, changes))
    assert error.where == f"params.yaml: {where}"
    said = f"{error.got} {error.wanted}"
    assert [word for word in named if word not in said] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"model.scratch.hidden_size": 96, "model.scratch.num_attention_heads": 4},  # 96 = 12 x (2 x 4)
        {"model.scratch.num_attention_heads": 4, "model.scratch.num_key_value_heads": 2},
        {"prepare.equations.teacher.operation_slip_frac": 1},
        {"evaluate.temperature": 0, "evaluate.num_samples": 1},
        {"seed": 0},
        {"seed": 2**31 - 1},
        {"grpo.top_p": 1},
        {"grpo.beta": 0},
        {"evaluate.gate.min_gain": None},
        {"prepare.max_train": None},
        {"grpo.health.window": 2},
        {"launch.threads": 0, "launch.vllm": {}},
    ],
)
def test_the_edge_of_a_range_is_inside(shipped: dict[str, Any], changes: dict[str, Any]) -> None:
    data = changed(shipped, changes)
    assert check_params(data, Path("params.yaml")).model_dump(exclude_unset=True) == data


def test_several_errors_are_one_message(shipped: dict[str, Any]) -> None:
    error = refusal(changed(shipped, {"seed": -1, "grpo.beta": REMOVED, "sft.max_step": 5, "report.num_samples": "x"}))
    assert error.where == "params.yaml"
    assert "4 wrong keys" in error.got
    for key in ("seed", "grpo.beta", "sft.max_step", "report.num_samples"):
        assert f"{key}: got " in error.got
    assert "did you mean `max_steps`?" in error.got


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "NoneType"),
        (b"# only a comment\n", "NoneType"),
        (b"- seed\n- model\n", "list"),
        (b"seed\n", "str"),
        (b"seed: [1, 2\n", "line 2"),
        (b"seed: 1\nmodel:\n\tdtype: float32\n", "line 3"),  # a tab indents nothing in YAML
        (b"seed: 1\nseed: 2\n", 'duplicate key "seed"'),
        (b"seed: !!python/object/apply:os.getcwd []\n", "constructor"),
        # Latin-1: the byte after the 21 of `prompts: {system: caf`.
        (b"prompts: {system: caf\xe9}\n", "byte 21 is not UTF-8"),
    ],
)
def test_a_file_that_is_no_mapping_of_sections_is_refused(tmp_path: Path, content: bytes, got: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_params(path)
    error = caught.value
    assert error.where == str(path)
    assert got in error.got
    assert error.wanted
    assert error.do


def test_no_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(InputError) as caught:
        load_params(Path("params.yaml"))
    assert caught.value.where == "params.yaml"
    assert "no such file in elsewhere/" in caught.value.got
    assert "root" in caught.value.do


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path, shipped: dict[str, Any]) -> None:
    # YAML 1.1 wants a point and a sign (1.0e-05) and reads 1e-05 as text. JSON is YAML 1.2 and Python writes 1e-05.
    path = tmp_path / "params.yaml"
    path.write_text("a: 1e-05\nb: 2E3\nc: 1.5e-3\nd: off\n", encoding="utf-8")
    assert read_yaml(path) == {"a": 0.00001, "b": 2000.0, "c": 0.0015, "d": "off"}
    text = json.dumps(changed(shipped, {"grpo.learning_rate": 0.00001}))
    assert '"learning_rate": 1e-05' in text
    path.write_text(text, encoding="utf-8")
    assert load_params(path).grpo.learning_rate == 0.00001


def test_text_beyond_ascii_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + "system: Löse Schritt für Schritt\n".encode())
    assert read_yaml(path) == {"system": "Löse Schritt für Schritt"}


def test_params_cannot_be_changed(root: Path) -> None:
    params = load_params(root / "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 2
    with pytest.raises(ValidationError, match="frozen"):
        params.grpo.beta = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        params.prepare.equations.teacher.operation_slip_frac = 0.0


def test_the_schema_imports_nothing_heavy(root: Path) -> None:
    code = "import sys, posttrain.params.file; print(*{name.partition('.')[0] for name in sys.modules})"
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    imported = set(shown.stdout.split())
    assert "pydantic" in imported
    assert imported & {"torch", "transformers", "trl", "datasets", "dvc", "prefect", "math_verify", "numpy"} == set()


# ---------------------------------------------------------------------------------------------------------------------
# What a file can do to its reader

SHIPPED = (Path(__file__).parents[2] / "params.yaml").read_text()


def with_value(key: str, value: str) -> str:
    """The shipped file with another value at the first key of that name."""
    assert re.search(rf"^ *{key}:", SHIPPED, re.M)
    return re.sub(rf"^( *{key}:).*$", lambda found: f"{found[1]} {value}", SHIPPED, count=1, flags=re.M)


HOSTILE = {
    **{
        f"{what} levels": text
        for what, text in {"100,000 flow": "a: " + "[" * 100_000, "open": "{a: " * 50_000}.items()
    },
    "100,000 block levels": "a:\n" + "- " * 100_000 + "x",
    "100,000 keys of keys": "? " * 100_000,
    "a number of 5,000 digits": with_value("seed", "9" * 5000),
    "month 13": with_value("seed", "2024-13-45"),
    "true as a number": with_value("learning_rate", "true"),
    "true as an integer": with_value("seed", "true"),
    "text as an integer": with_value("seed", '"1"'),
    "a float as an integer": with_value("batch_size", "32.0"),
    "no as a boolean": with_value("trust_remote_code", "no"),
    "0 as a boolean": with_value("trust_remote_code", "0"),
    '"false" as a boolean': with_value("trust_remote_code", '"false"'),
    "a flag as a host": SHIPPED + "  vllm: {server_host: --trust-remote-code}\n",
    "a port of a server": SHIPPED + "  vllm: {server_base_url: 'http://a:99999'}\n",
    "a port of machine 0": SHIPPED + "  main_address: a:99999\n",
    "true among GPUs": SHIPPED + "  vllm: {gpus: [true]}\n",
    "repetitions without end": with_value("answer_pattern", "'(a{99999999999})'"),
    "5,000 groups": with_value("answer_pattern", "'" + "(" * 5000 + ")" * 5000 + "'"),
    "a colour in a key": SHIPPED + '"\\e[31mred": 1\n',
    "a line break in a key": SHIPPED + '"a\\rposttrain | done": 1\n',
    "another's object": "a: !!python/object/apply:os.system [ls]",
    "a zero byte": SHIPPED + "\0",
    "an alias of nothing": "a: *b",
    "two megabytes": SHIPPED + "#" * 2**21,
    "half of UTF-8": b"a: \xc3",
    "UTF-16": SHIPPED.encode("utf-16"),
    "nothing": "",
    "a list": "[1]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_hangs_kills_or_passes(name: str, tmp_path: Path) -> None:
    """One line to act on, without control characters, of bounded length, within seconds."""
    text, path = HOSTILE[name], tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert time.process_time() - began < 5
    told = str(caught.value)
    assert len(told) < 2000
    assert all(character == "\n" or character.isprintable() for character in told)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to itself"])
def test_what_is_no_file_is_not_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "link to itself": lambda: path.symlink_to(path),
    }[kind]()
    with pytest.raises(InputError, match=r"params\.yaml"):
        load_params(path)


@pytest.mark.parametrize("value", ["[" * 50_000, "9" * 5000, "true", '"2"', "2.0"])
def test_the_environment_is_read_as_strictly(value: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_LAUNCH_MICRO_BATCH_SIZE", value)
    with pytest.raises(InputError, match="POSTTRAIN_LAUNCH_MICRO_BATCH_SIZE") as caught:
        load_params(Path("params.yaml"))
    assert len(str(caught.value)) < 2000


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(SHIPPED, encoding="utf-8-sig")
    assert load_params(tmp_path / "params.yaml") == load_params(Path(__file__).parents[2] / "params.yaml")
