"""`posttrain push`: what would go, what is refused, the card by the Hub's own classes, and commits to a stand-in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

from posttrain.cli import main
from posttrain.outputs.facts import Origin
from posttrain.outputs.identity import identity
from posttrain.outputs.manifest import MANIFEST, publish, write_json
from posttrain.params.file import load_params
from posttrain.paths import EVALUATE_RESULTS, GRPO_MODEL, PARAMS, PREPARED, SFT_MODEL
from posttrain.training.card import CARD, card
from tests.hub import READER, WRITER, Hub, Repository, serving
from tests.unit.test_lineage import model_folder

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub, as it uploads
RATES = {"pass@1": 0.75, "pass@1_low": 0.5, "pass@1_high": 0.9, "pass@2": 0.8, "maj@2": 0.7}
ASKED = {"temperature": 0.6, "top_p": 1.0, "max_new_tokens": 80}
METRICS: dict[str, Any] = {
    "grpo": RATES,
    "sft": {**RATES, "pass@1": 0.25},
    "gain": {"mean": 0.5, "low": 0.3, "high": 0.7},
    "problems": 9,
    "samples_per_problem": 2,
    "tasks": {"gsm8k": {"grpo": {**RATES, "pass@1": 0.125}, "problems": 5, "samples_per_problem": 2}},
}


@pytest.fixture
def pipeline(project: Path) -> Path:
    """models/grpo and what it was made from, with cards and an evaluation, and no training."""
    params, made = load_params(PARAMS), project / "made"
    made.mkdir()
    (made / "train.jsonl").write_text('{"problem": "1 + 1"}\n')
    publish(made, PREPARED, Origin("prepare", params).record)
    for stage, folder in (("sft", SFT_MODEL), ("grpo", GRPO_MODEL)):
        model_folder(made)
        (made / "optimizer.pt").write_bytes(b"states")
        record = Origin(stage, params).record
        (made / CARD).write_text(card(record, {"reward/accuracy": 0.9}, "1 + 1", "2", None))
        publish(made, folder, record | {"model": identity(made, None)})
    evaluated(project / "made")
    return project


def evaluated(made: Path) -> None:
    made.mkdir()
    write_json(made / "metrics.json", METRICS)
    facts = Origin("evaluate", load_params(PARAMS)).record
    publish(made, EVALUATE_RESULTS, facts | {"params": {"evaluate": ASKED}})


def dry_run(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["push", "me/mine", "--dry-run", *more]) == 0
    return capsys.readouterr().out


def card_of(shown: str, folder: Path) -> ModelCard:
    text = shown[shown.index("---\n") : shown.index("\npush | nothing was sent")]
    (folder / "card.md").write_text(text)
    return ModelCard.load(folder / "card.md")


def test_the_card_has_results_that_the_hub_reads(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in GRPO_MODEL.iterdir()}
    found = card_of(dry_run(capsys, "--license", "apache-2.0"), tmp_path)
    results = {(one.dataset_type, one.metric_type): one for one in found.data.eval_results}
    assert set(results) == {
        (dataset, metric) for dataset in ("equations", "gsm8k") for metric in ("pass@1", "pass@2", "maj@2")
    }
    held_out = results["equations", "pass@1"]
    assert (held_out.metric_value, held_out.metric_name) == (0.75, "pass@1, 95 % [0.500, 0.900]")
    assert held_out.verified is False
    assert held_out.metric_args == {**ASKED, "problems": 9, "samples_per_problem": 2}
    assert results["gsm8k", "pass@1"].metric_value == 0.125
    assert (found.data.license, found.data.library_name, found.data.model_name) == (
        "apache-2.0",
        "transformers",
        "mine",
    )
    assert found.data.tags == ["posttrain", "trl", "grpo"]
    for text in (
        'from_pretrained("me/mine")',
        "| 9 x 2 | pass@1 | 0.750 | [0.500, 0.900] |",
        "+0.500 [+0.300, +0.700]",
    ):
        assert text in found.text
    assert {path: path.read_bytes() for path in GRPO_MODEL.iterdir()} == before


def test_only_the_model_goes(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [line.split()[-1] for line in dry_run(capsys).splitlines() if line.startswith("    ")]
    files = ["chat_template.jinja", "config.json", MANIFEST, "model.safetensors", "tokenizer.json"]
    assert [name for name in listed if "." in name][:7] == sorted([CARD, *files, "tokenizer_config.json"])
    assert "optimizer.pt" not in listed


def test_an_evaluation_of_another_model_is_not_in_the_card(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((EVALUATE_RESULTS / MANIFEST).read_text())
    manifest["parents"][str(GRPO_MODEL)] = "0" * 64
    write_json(EVALUATE_RESULTS / MANIFEST, manifest)
    shown = dry_run(capsys)
    assert "the card says nothing of an evaluation" in shown
    assert card_of(shown, tmp_path).data.eval_results is None


@pytest.mark.parametrize("name", ["config.json", CARD])
def test_what_changed_is_refused(pipeline: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with (GRPO_MODEL / name).open("a") as file:
        file.write("\n")
    assert main(["push", "me/mine", "--dry-run"]) == 2
    assert f"models/grpo/{name}" in capsys.readouterr().err


def test_a_token_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from posttrain.commands.push import require_no_secrets
    from posttrain.errors import InputError

    (project / "config.json").write_text(json.dumps({"token": "hf_" + "a" * 34}))
    with pytest.raises(InputError, match="access token"):
        require_no_secrets([project / "config.json"], b"")


@pytest.mark.parametrize("name", ["mine", "me/mine/more", "me/../mine", "me/a b"])
def test_a_name_that_the_hub_refuses(pipeline: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", name, "--dry-run"]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# What reaches the Hub: huggingface_hub's client, and a stand-in of the Hub


def endpoint(monkeypatch: pytest.MonkeyPatch, url: str, token: str = WRITER) -> None:
    """What HF_ENDPOINT and HF_TOKEN say, which huggingface_hub reads when it is imported."""
    from huggingface_hub import hf_api

    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hf_api.api, "endpoint", url)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        endpoint(monkeypatch, hub.address)
        yield hub


def test_one_commit_has_the_model_and_its_evaluation(
    pipeline: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "me/mine", "--private"]) == 0
    there = hub.repositories["me/mine"]
    assert (there.visibility, there.commits) == ("private", ["posttrain push"])
    card = there.files.pop(CARD)
    assert b"model-index:" in card
    assert b'from_pretrained("me/mine")' in card
    listed = set(json.loads((GRPO_MODEL / MANIFEST).read_text())["files"]) - {CARD, "optimizer.pt"} | {MANIFEST}
    assert there.files == {name: (GRPO_MODEL / name).read_bytes() for name in listed}
    assert list(hub.stored.values()) == [(GRPO_MODEL / "model.safetensors").read_bytes()]
    assert f"push | {hub.address}/me/mine/commit/" in capsys.readouterr().out


def test_the_same_again_is_no_commit(pipeline: Path, hub: Hub) -> None:
    assert [main(["push", "me/mine"]), main(["push", "me/mine"])] == [0, 0]
    assert hub.repositories["me/mine"].commits == ["posttrain push"]
    assert main(["push", "me/mine", "--license", "mit"]) == 0
    assert hub.repositories["me/mine"].commits == ["posttrain push"] * 2
    assert b"license: mit" in hub.repositories["me/mine"].files[CARD]


def test_weights_of_an_earlier_model_go_and_nothing_else(pipeline: Path, hub: Hub) -> None:
    kept = {"notes.md": b"mine", "onnx/model.safetensors": b"another form"}
    shards = {"model-00001-of-00002.safetensors": b"old", "pytorch_model.bin": b"older"}
    hub.repositories["me/mine"] = Repository("public", kept | shards)
    assert main(["push", "me/mine"]) == 0
    there = hub.repositories["me/mine"].files
    assert kept.items() <= there.items()
    assert not shards.keys() & there.keys()


@pytest.mark.parametrize(("token", "said"), [("hf_wrong", "Invalid username"), (READER, "don't have the rights")])
def test_a_token_that_the_hub_refuses_exits_2(
    pipeline: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str,
    said: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", "me/mine"]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "hf auth whoami" in shown.err
    assert token not in shown.out + shown.err
    assert hub.repositories == {}


def test_weights_that_do_not_arrive_are_not_committed(
    pipeline: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.storage_is_full = True
    assert main(["push", "me/mine"]) == 2
    assert "storage limit" in capsys.readouterr().err
    assert hub.repositories["me/mine"].commits == []
    hub.storage_is_full = False
    assert main(["push", "me/mine"]) == 0
    assert hub.repositories["me/mine"].files["model.safetensors"] == (GRPO_MODEL / "model.safetensors").read_bytes()


def test_a_hub_that_is_not_there_exits_2(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint(monkeypatch, "http://127.0.0.1:9")
    assert main(["push", "me/mine"]) == 2
    shown = capsys.readouterr()
    assert "the Hub could not be reached" in shown.err
    assert WRITER not in shown.err + shown.out
