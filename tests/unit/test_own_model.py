"""GRPO from a model that somebody else fine-tuned: `sft: null`, what it needs, and that no such model is ever lost."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.commands.check import checks as check
from posttrain.data.sources import load
from posttrain.errors import InputError
from posttrain.inputs import link_temporary_workspace
from posttrain.launch import layout
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import MANIFEST, publish, require_complete, sha256
from posttrain.outputs.parents import require_model, require_tracked
from posttrain.params.schema import Params
from posttrain.paths import COMPLETIONS, PREPARED, SFT_MODEL, SFT_RESULTS
from posttrain.run_stage import help_machine_0, shared
from posttrain.training.card import CARD
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.pretrained import require_source
from stages import prepare, sft
from tests.conftest import ParamsWith

OWN = "models/base/own"
ROWS = [{"problem": f"Solve: 2x + {n} = {n + 6}", "answer": "x = 3"} for n in range(1, 25)]
CHANGES: dict[str, Any] = {
    "sft": None,
    "model.name_or_path": OWN,
    "model.scratch.hidden_size": 16,
    "model.scratch.num_hidden_layers": 1,
    "prepare.dataset": "data/source/own.jsonl",
    "prepare.columns.solution": None,
}


@pytest.fixture
def params(project: Path, params_with: ParamsWith) -> Params:
    """A project with problems, none of them solved, and a model in bfloat16."""
    params = params_with(CHANGES)
    Path("data/source").mkdir(parents=True)
    Path("data/source/own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    torch.manual_seed(0)
    tokenizer = train_tokenizer([row["problem"] for row in ROWS], 384)
    random_model(params.model.scratch, tokenizer).to(torch.bfloat16).save_pretrained(OWN)
    tokenizer.save_pretrained(OWN)
    return params


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_problems_need_no_solution(params: Params) -> None:
    prepare.run(params)
    assert (PREPARED / "sft.jsonl").read_text() == ""
    assert {json.loads(line)["answer"] for line in (PREPARED / "train.jsonl").read_text().splitlines()} == {"x = 3"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_model_is_adopted_as_it_is(params: Params, params_with: ParamsWith, dtype: str) -> None:
    params = params_with(CHANGES | {"model.dtype": dtype})
    prepare.run(params)
    sft.run(params)
    given, taken = weights(OWN), weights(SFT_MODEL)
    assert given.keys() == taken.keys()
    # Every bfloat16 is a float32, so nothing is rounded in either case.
    assert all(torch.equal(given[name].float(), taken[name].float()) for name in given)
    assert {str(value.dtype) for value in taken.values()} == {f"torch.{dtype}"}
    manifest = require_model(SFT_MODEL, "sft", None)
    assert manifest["adopted"] == OWN
    assert manifest["inputs"][f"{OWN}/model.safetensors"] == sha256(Path(OWN, "model.safetensors"))
    assert manifest["params"]["sft"] is None


def test_what_is_said_of_an_adopted_model_is_true(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.run(params)
    sft.run(params)
    assert json.loads((SFT_RESULTS / "metrics.json").read_text()) == {"parameters": weights_count()}
    assert (SFT_RESULTS / "curve.tsv").read_text().splitlines() == [
        "step\tloss\ttoken_accuracy\tentropy\tgrad_norm\tlearning_rate"
    ]
    samples = [json.loads(line) for line in (SFT_RESULTS / "samples.jsonl").read_text().splitlines()]
    trained_on = [json.loads(line)["problem"] for line in (PREPARED / "train.jsonl").read_text().splitlines()]
    assert [sample["problem"] for sample in samples] == trained_on[:4]
    said = (SFT_MODEL / CARD).read_text()
    assert "Not trained here: posttrain took <code>models/base/own</code> as it is." in said
    assert "Trained by" not in said
    assert "- trl\n" not in said
    assert "Measured while it trained" not in said
    assert f"sft | adopted {OWN}, {weights_count():,} parameters" in capsys.readouterr().out


def weights_count() -> int:
    return sum(value.numel() for value in weights(OWN).values())


def test_the_same_model_gives_the_same_bytes(params: Params) -> None:
    prepare.run(params)
    sft.run(params)
    first = {path.name: path.read_bytes() for path in SFT_MODEL.iterdir()}
    sft.run(params)
    assert {path.name: path.read_bytes() for path in SFT_MODEL.iterdir()} == first


def test_one_process_adopts_whatever_launch_asks_for(
    params: Params, params_with: ParamsWith, capsys: pytest.CaptureFixture[str]
) -> None:
    several = {"launch.strategy": "ddp", "launch.processes": 4}
    assert layout.layout(params_with(CHANGES | several).launch).processes == 4
    assert [shared(stage, params_with(CHANGES | several)) for stage in ("sft", "grpo")] == [False, True]
    assert shared("sft", params_with(several))
    help_machine_0("sft", params_with(CHANGES | {"launch.machines": 2, "launch.machine_rank": 1}))
    assert "machine 0 does it alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sft": None}, "sft null with model.name_or_path scratch: GRPO would start from random weights"),
        ({**CHANGES, "sft": {"max_steps": 3}}, r"sft\.learning_rate: got no such key"),
        ({"prepare.dataset": "x.jsonl", "prepare.columns.solution": None}, "name their column, or set sft to null"),
        ({"evaluate.base": True}, "evaluate.base with model.name_or_path scratch"),
        ({**CHANGES, "evaluate.base": True}, "evaluate.base with sft null, which leaves the base as it is"),
        ({"sft": "none"}, "sft"),
    ],
)
def test_params_that_do_not_fit_together_are_refused(
    params_with: ParamsWith, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        params_with(changes)


def test_equations_have_their_traces_whatever_columns_say(params_with: ParamsWith) -> None:
    params_with({"prepare.columns.solution": None})


# ---------------------------------------------------------------------------------------------------------------------
# check


def test_check_skips_the_rules_of_training_and_says_so(params: Params, params_with: ParamsWith) -> None:
    prepare.run(params)
    found = check.findings(params)
    assert not [finding for finding in found if finding.level == "fault"]
    (skipped,) = [finding for finding in found if finding.name == "no SFT"]
    assert skipped.saw == f"null: {OWN} becomes models/sft as it is; the rules of training are skipped"
    named = {finding.name for finding in found}
    trained = {finding.name for finding in check.findings(params_with({}))}
    assert {"lengths of the traces", "memory and time of sft"} <= trained - named
    assert {"tags", "learning rate too high", "context length of grpo", "memory and time of grpo"} <= named
    assert not [finding for finding in found if finding.where.startswith(("sft.", "room"))]


def test_a_model_where_dvc_does_not_look_is_refused_with_the_command(params: Params) -> None:
    shutil.move(OWN, "sft_checkpoint")
    outside = params.model_copy(update={"model": params.model.model_copy(update={"name_or_path": "./sft_checkpoint"})})
    with pytest.raises(InputError) as caught:
        check.preflight(outside, "sft")
    assert "model.name_or_path" in caught.value.where
    assert "a folder outside models/base/" in caught.value.got
    command = caught.value.do.split(" (or")[0]
    assert command == "mv sft_checkpoint models/base/sft_checkpoint"
    assert caught.value.do.endswith("then set model.name_or_path: models/base/sft_checkpoint")
    subprocess.run(command, shell=True, check=True)
    require_tracked("models/base/sft_checkpoint")


def test_a_link_to_a_folder_is_refused_and_links_to_its_files_are_not(params: Params) -> None:
    prepare.run(params)
    outside = Path("elsewhere").absolute()
    shutil.move(OWN, outside)
    Path(OWN).symlink_to(outside)
    with pytest.raises(InputError, match="a link to a folder, which DVC does not follow") as caught:
        require_tracked(OWN)
    subprocess.run(caught.value.do.removeprefix("link its files instead: "), shell=True, check=True)
    assert {path.is_symlink() for path in Path(OWN).iterdir()} == {True}
    require_tracked(OWN)
    require_tracked(str(Path(OWN).absolute()))
    inputs = Origin("sft", params).record["inputs"]
    assert inputs[f"{OWN}/model.safetensors"] == sha256(outside / "model.safetensors")


@pytest.mark.parametrize("name", ["scratch", "organisation/model", "models/base/own", "./models/base/own"])
def test_other_models_are_where_they_may_be(params: Params, name: str) -> None:
    require_tracked(name)


# ---------------------------------------------------------------------------------------------------------------------
# A model that no stage wrote


def test_a_model_of_ones_own_in_models_sft_is_never_replaced(params: Params) -> None:
    prepare.run(params)
    shutil.move(OWN, SFT_MODEL)
    before = sha256(SFT_MODEL / "model.safetensors")
    with pytest.raises(InputError) as caught:
        require_complete(SFT_MODEL, "sft")  # as grpo does
    assert "no stage's" in caught.value.got
    assert "a model of your own belongs in models/base/" in caught.value.do
    for stage in (None, "sft"):
        (fault,) = [f for f in check.findings(params, stage) if f.where == str(SFT_MODEL)]
        assert fault.level == "fault"
        assert "or move it: a model of your own belongs in models/base/" in fault.do
    with pytest.raises(InputError, match="models/sft"):
        publish(PREPARED, SFT_MODEL, {})
    assert sha256(SFT_MODEL / "model.safetensors") == before
    assert not (SFT_MODEL / MANIFEST).exists()


def test_what_a_stage_wrote_and_empty_folders_are_replaced(project: Path) -> None:
    SFT_MODEL.mkdir(parents=True)
    for content in ("first", "second"):
        made = Path("made")
        made.mkdir()
        (made / "a.txt").write_text(content)
        publish(made, SFT_MODEL, {"stage": "sft"})
    assert (SFT_MODEL / "a.txt").read_text() == "second"


@pytest.mark.parametrize("temporary", [True, False])
def test_what_git_ignores_is_there_in_dvcs_temporary_workspaces(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch, temporary: bool
) -> None:
    """And nothing of another folder in a clone that merely lies in it."""
    params = params_with(CHANGES | {"prepare.dataset": "./data/source/own.jsonl"})
    for path, text in (
        (Path("data/source/own.jsonl"), '{"problem": "1 + 1", "answer": "2"}\n'),
        (Path(OWN, "config.json"), "{}"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder = project / (".dvc/tmp/exps/tmpx1" if temporary else "clone")
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    link_temporary_workspace()
    assert Path("data/source/own.jsonl").exists() is Path(OWN, "config.json").exists() is temporary
    assert (COMPLETIONS.resolve() == (project / COMPLETIONS).resolve()) is temporary
    if not temporary:
        for missing in (
            lambda: load(params.prepare, "train", folder / "made"),
            lambda: require_source(OWN, params.model),
        ):
            with pytest.raises(InputError, match="mend the path"):
                missing()
