"""What a manifest records, what a stage demands of its parents, and what verify catches."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from posttrain.cli import main
from posttrain.errors import InputError
from posttrain.outputs import run_log as outputs_run_log
from posttrain.outputs.facts import Origin, code_hash, versions
from posttrain.outputs.identity import identity
from posttrain.outputs.manifest import MANIFEST, publish, sha256, write_json
from posttrain.outputs.parents import require_child, require_model
from posttrain.outputs.run_log import git_state
from posttrain.params.file import load_params
from posttrain.paths import EVALUATE_RESULTS, GRPO_MODEL, GRPO_RESULTS, PARAMS, PREPARED, SFT_MODEL
from posttrain.training.card import CARD, card
from stages import evaluate, grpo
from tests.conftest import ParamsWith

TENSORS = {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
Change = Callable[[], object]


def safetensors(path: Path, tensors: dict[str, Any] = TENSORS, data: bytes = bytes(8)) -> None:
    header = json.dumps(tensors).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def model_folder(made: Path) -> Path:
    made.mkdir(parents=True)
    write_json(made / "config.json", {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 16})
    write_json(made / "tokenizer.json", {"model": {"vocab": {"a": 0}}})
    write_json(made / "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    (made / "chat_template.jinja").write_text("{{ messages }}")
    safetensors(made / "model.safetensors")
    return made


@pytest.fixture
def pipeline(project: Path) -> Path:
    """data/prepared, models/sft and models/grpo with the manifests that the stages write, and no training."""
    params = load_params(PARAMS)
    (project / "rewards").mkdir()
    (project / "rewards/own.py").write_text("def own(completion):\n    return 1.0\n")
    made = project / "made"
    made.mkdir()
    (made / "train.jsonl").write_text('{"problem": "1 + 1"}\n{"problem": "2 + 2"}\n')
    publish(made, PREPARED, Origin("prepare", params).record | {"rows": {"train": 2}, "dropped": {}})
    for stage, folder in (("sft", SFT_MODEL), ("grpo", GRPO_MODEL)):
        model_folder(made)
        publish(made, folder, Origin(stage, params).record | {"model": identity(made, None)})
    return project


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def set_param(section: str, key: str, value: object) -> None:
    yaml = YAML()
    params = yaml.load(PARAMS)
    params[section][key] = value
    yaml.dump(params, PARAMS)


# ---------------------------------------------------------------------------------------------------------------------
# The record


def test_a_record_is_what_determines_the_bytes(pipeline: Path) -> None:
    manifest = json.loads((GRPO_MODEL / MANIFEST).read_text())
    assert set(manifest["params"]) == {"seed", "model", "prompts", "verifier", "rewards", "grpo"}
    assert manifest["params"]["seed"] == 1
    assert manifest["parents"] == {str(path): sha256(path / MANIFEST) for path in (PREPARED, SFT_MODEL)}
    assert manifest["inputs"] == {}
    assert manifest["code"]["rewards/own.py"] == code_hash(Path("rewards/own.py").read_bytes())
    assert {"stages/grpo.py", "posttrain/processes/pool.py", "posttrain/training/card.py"} <= set(manifest["code"])
    assert {"python", "torch", "trl", "transformers"} <= set(manifest["versions"])
    assert "launch" not in json.dumps(manifest)


def test_hardware_is_in_no_record(pipeline: Path, params_with: ParamsWith) -> None:
    other = params_with({"launch.threads": 7, "launch.micro_batch_size": 1})
    assert Origin("grpo", other).record == Origin("grpo", load_params(PARAMS)).record


def test_only_the_data_that_params_name_are_inputs(project: Path, params_with: ParamsWith) -> None:
    for name in ("mine.jsonl", "other.jsonl"):
        (project / "data/source").mkdir(parents=True, exist_ok=True)
        (project / "data/source" / name).write_text(name)
    named = Origin("prepare", params_with({"prepare.dataset": "data/source/mine.jsonl"})).record
    assert named["inputs"] == {"data/source/mine.jsonl": sha256(Path("data/source/mine.jsonl"))}
    assert Origin("prepare", load_params(PARAMS)).record["inputs"] == {}
    assert "torch" not in named["versions"]


def test_the_base_model_is_an_input(project: Path, params_with: ParamsWith) -> None:
    for name in ("mine", "other"):
        model_folder(project / "models/base" / name)
    (PREPARED).mkdir(parents=True)
    write_json(PREPARED / MANIFEST, {"files": {}})
    inputs = Origin("sft", params_with({"model.name_or_path": "models/base/mine"})).record["inputs"]
    assert inputs["models/base/mine/model.safetensors"] == sha256(Path("models/base/mine/model.safetensors"))
    assert not any("other" in name for name in inputs)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("# another\nx = 1\n\n\ndef f():\n    return x\n", True),
        ('"""Doc."""\nx = 1\n"""What x is."""\n\ndef f():\n    """Doc."""\n    return x  # a remark\n', True),
        ("x = 2\n\n\ndef f():\n    return x\n", False),
        ("x = 1\n\n\ndef f():\n    return x + 0\n", False),
    ],
)
def test_comments_are_not_code(tmp_path: Path, text: str, same: bool) -> None:
    for name, content in (("a.py", "x = 1\n\n\ndef f():\n    return x\n"), ("b.py", text)):
        (tmp_path / name).write_text(content)
    assert (code_hash((tmp_path / "a.py").read_bytes()) == code_hash((tmp_path / "b.py").read_bytes())) is same


def test_the_commit_is_in_the_log_and_not_in_the_manifest(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state() is None
    states = iter(["a" * 40, "", "b" * 40, " M stages/grpo.py"])
    monkeypatch.setattr(outputs_run_log, "git", lambda *_: next(states))
    before = (GRPO_MODEL / MANIFEST).read_bytes()
    outputs_run_log.log_run("grpo", seconds=1.0)
    log = json.loads(Path(".posttrain/runs/grpo.json").read_text())
    assert log["git"] == {"commit": "a" * 40, "dirty": False}
    assert log["manifest"] == sha256(GRPO_MODEL / MANIFEST)
    outputs_run_log.log_run("grpo", seconds=2.0)
    assert json.loads(Path(".posttrain/runs/grpo.json").read_text())["git"]["dirty"] is True
    assert (GRPO_MODEL / MANIFEST).read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------------
# Parents


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: edit(SFT_MODEL / "tokenizer.json", '"a": 0', '"b": 0'), "models/sft: tokenizer"),
        (lambda: edit(SFT_MODEL / "tokenizer_config.json", "im_end", "end"), "models/sft: tokenizer"),
        (lambda: (SFT_MODEL / "chat_template.jinja").write_text("{{ 1 }}"), "models/sft: chat template"),
        (lambda: set_param("prompts", "system", "Be brief."), "prompts.system"),
        (lambda: edit(SFT_MODEL / "config.json", "16", "32"), "models/sft: architecture"),
        (
            lambda: safetensors(SFT_MODEL / "model.safetensors", {"w": {"dtype": "F32", "shape": [1, 2]}}),
            "models/sft: architecture",
        ),
        (lambda: flip_a_bit(SFT_MODEL / "model.safetensors"), "model.safetensors changed"),
        (lambda: (SFT_MODEL / "model.safetensors").write_bytes(b"abc"), "model.safetensors"),
        (lambda: (SFT_MODEL / "config.json").write_text('{"archi'), "models/sft/config.json"),
        (lambda: write_json(SFT_MODEL / MANIFEST, {"files": {}}), "no record of the model's tokenizer"),
    ],
)
def test_grpo_refuses_a_parent_that_is_not_the_one_recorded(pipeline: Path, change: Change, named: str) -> None:
    before = (GRPO_MODEL / MANIFEST).read_bytes()
    change()
    with pytest.raises(InputError) as caught:
        grpo.run(load_params(PARAMS))
    assert named in str(caught.value)
    assert "posttrain sft" in caught.value.do
    assert (GRPO_MODEL / MANIFEST).read_bytes() == before


def test_a_parent_as_it_was_recorded_is_taken(pipeline: Path) -> None:
    require_model(SFT_MODEL, "sft", None)
    require_child(GRPO_MODEL, json.loads((GRPO_MODEL / MANIFEST).read_text()), SFT_MODEL)


def swap_parent() -> None:
    manifest = json.loads((SFT_MODEL / MANIFEST).read_text())
    write_json(SFT_MODEL / MANIFEST, {**manifest, "params": {**manifest["params"], "seed": 2}})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (swap_parent, "another models/sft"),
        (lambda: write_json(GRPO_MODEL / MANIFEST, {"files": {}}), "no record of a parent"),
        (lambda: (GRPO_MODEL / MANIFEST).unlink(), "half-written"),
        (lambda: (GRPO_MODEL / MANIFEST).write_text('{"files": {"a'), "no JSON"),
    ],
)
def test_evaluate_refuses_models_that_do_not_belong_together(pipeline: Path, change: Change, named: str) -> None:
    change()
    with pytest.raises(InputError) as caught:
        evaluate.run(load_params(PARAMS))
    assert named in caught.value.got
    assert "posttrain grpo" in caught.value.do


# ---------------------------------------------------------------------------------------------------------------------
# verify


def verified(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    code = main(["verify", *arguments])
    return code, capsys.readouterr().out.splitlines()


def test_verify_holds_for_what_the_stages_wrote(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = verified(capsys)
    assert code == 0, lines
    assert {line.split()[0] for line in lines} == {"ok", "verify"}
    text = "\n".join(lines)
    assert len(lines) < 24  # a screen
    for what in (
        "models/grpo | 5 files",
        "models/grpo: parent models/sft",
        "models/sft | 5 files",
        "data/prepared | 1 file as",
    ):
        assert f"ok      {what}" in text
    assert "0 changed, 0 missing" in lines[-1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda: flip_a_bit(GRPO_MODEL / "model.safetensors"), "changed models/grpo/model.safetensors"),
        (lambda: flip_a_bit(SFT_MODEL / "model.safetensors"), "changed models/sft/model.safetensors"),
        (lambda: edit(PREPARED / "train.jsonl", "2 + 2", "2 + 3"), "changed data/prepared/train.jsonl"),
        (lambda: set_param("grpo", "beta", 0.5), "changed models/grpo: params | grpo.beta 0.01, now 0.5"),
        (lambda: set_param("prepare", "test_frac", 0.5), "changed data/prepared: params | prepare.test_frac"),
        (swap_parent, "changed models/grpo: parent models/sft | made from another one"),
        (lambda: (GRPO_MODEL / "tokenizer.json").unlink(), "missing models/grpo/tokenizer.json"),
        (lambda: shutil.rmtree(SFT_MODEL), "missing models/sft/manifest.json | half-written or not there"),
        (lambda: (GRPO_MODEL / "more.bin").write_bytes(b"1"), "changed models/grpo/more.bin | added"),
        (lambda: (SFT_MODEL / MANIFEST).write_text("{"), "changed models/sft/manifest.json | no JSON"),
        (lambda: edit(Path("rewards/own.py"), "1.0", "2.0"), "changed models/grpo: code | rewards/own.py"),
        (lambda: Path("rewards/own.py").unlink(), "missing models/grpo: code | rewards/own.py: no such file"),
    ],
)
def test_verify_names_what_changed(
    pipeline: Path, capsys: pytest.CaptureFixture[str], change: Change, line: str
) -> None:
    change()
    code, lines = verified(capsys)
    assert code == 2
    faults = [found for found in lines if found.startswith(("changed", "missing"))]
    assert any(found.startswith(line) for found in faults), lines
    assert len(faults) <= 3  # what else holds is said to hold


def test_verify_names_code_that_changed(
    root: Path, pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    health = code_hash((root / "posttrain/grpo/health.py").read_bytes())
    changed = lambda *file: "0" if code_hash(*file) == health else code_hash(*file)  # noqa: E731
    monkeypatch.setattr("posttrain.commands.lineage.code_hash", changed)
    code, lines = verified(capsys)
    assert code == 2
    assert [line.split(" |")[0] for line in lines if line.startswith("changed")] == ["changed models/grpo: code"]
    assert any("posttrain/grpo/health.py" in line for line in lines)


def test_verify_takes_another_folder(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_a_bit(GRPO_MODEL / "model.safetensors")
    assert verified(capsys, "models/sft")[0] == 0
    assert verified(capsys, "models/grpo/")[0] == 2
    shutil.copytree(SFT_MODEL, "copy")
    assert verified(capsys, "copy")[0] == 0
    assert verified(capsys, str(pipeline / "models/sft"))[0] == 0
    code, lines = verified(capsys, "nowhere")
    assert (code, lines[0][:30]) == (2, "missing nowhere/manifest.json ")


def test_other_versions_are_said_and_no_fault(
    pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = versions()
    monkeypatch.setattr("posttrain.commands.lineage.versions", lambda: {**now, "trl": "9.9"})
    code, lines = verified(capsys)
    assert code == 0
    assert any(line.startswith("note    models/grpo: versions | trl ") and "now 9.9" in line for line in lines)


# ---------------------------------------------------------------------------------------------------------------------
# lineage


def test_lineage_prints_the_tree_with_metrics(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(
        GRPO_RESULTS / "metrics.json", {"reward/total": 1.08, "reward/total_first": 0.49, "stopped_at_step": None}
    )
    assert main(["lineage"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if " | manifest " in line or "not there" in line]
    assert [line.strip().removeprefix("└─ ").split(" |")[0] for line in heads] == [
        str(path) for path in (PREPARED, SFT_MODEL, GRPO_MODEL, EVALUATE_RESULTS)
    ]
    assert any("train 2 rows" in line for line in lines)
    assert any("reward/total 0.49 → 1.08" in line for line in lines)
    assert "not there: `posttrain evaluate` makes it" in lines[-1]
    swap_parent()
    assert main(["lineage"]) == 0
    assert "made from another models/sft" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# The card


def parts_of(text: str) -> tuple[dict[str, Any], str]:
    _, front, body = text.split("---\n", 2)
    return YAML(typ="safe", pure=True).load(front), body


def test_a_card_says_what_is_known(pipeline: Path, params_with: ParamsWith) -> None:
    text = card(
        Origin("grpo", load_params(PARAMS)).record, {"loss": 0.25, "note": "x"}, "1 + 1?", "<think>2</think>", SFT_MODEL
    )
    front, body = parts_of(text)
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["posttrain", "trl", "grpo"],
    }
    assert "| loss | 0.25 |" in body
    assert "<pre>&lt;think&gt;2&lt;/think&gt;</pre>" in body
    assert str(pipeline) not in text
    hub = params_with({"model.name_or_path": "Qwen/Qwen2.5-0.5B", "model.revision": "a" * 40})
    assert parts_of(card(Origin("grpo", hub).record, {}, "", "", None))[0]["base_model"] == "Qwen/Qwen2.5-0.5B"


def test_a_card_passes_on_a_known_licence(pipeline: Path) -> None:
    made = Origin("grpo", load_params(PARAMS)).record
    (SFT_MODEL / CARD).write_text("---\nlicense: apache-2.0\n---\n# x\n")
    assert parts_of(card(made, {}, "", "", SFT_MODEL))[0]["license"] == "apache-2.0"
    for text in ("no front matter", "---\nlicense: [\n---\n", "---\nlicense: 'a\n  b'\n---\n", "---\n"):
        (SFT_MODEL / CARD).write_text(text)
        assert "license" not in parts_of(card(made, {}, "", "", SFT_MODEL))[0]


def test_text_of_models_and_users_is_escaped(pipeline: Path, params_with: ParamsWith) -> None:
    evil = "</pre><script>alert(1)</script>\n---\nlicense: mit\n| a | `b` |"
    params = params_with({"prompts.system": evil, "model.name_or_path": "x</code><b>"})
    front, body = parts_of(card(Origin("grpo", params).record, {"a|b`<i>": 1.0}, evil, evil, None))
    assert "license" not in front
    assert "<script" not in body
    assert body.count("</pre>") == 3
    assert "<b>" not in body
    assert "<i>" not in body
