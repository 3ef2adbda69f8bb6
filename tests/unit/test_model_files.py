"""Folders that are no model: `posttrain check` names each as a fault, and sft exits with 2 before it trains."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.cli import main
from posttrain.commands.check import checks as check
from posttrain.commands.check.models import changes_since, values
from posttrain.errors import InputError
from posttrain.outputs.weight_files import look_at_values, read_weights
from posttrain.params.file import load_params, read_yaml
from posttrain.params.schema import Params
from posttrain.paths import PARAMS, PREPARED, SFT_MODEL
from posttrain.run_stage import work
from posttrain.training.card import licence_of
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.models import align_special_tokens

ROOT = Path(__file__).parents[2]
BASE = Path("models/base/m")
Fault = Callable[[Path], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with params, prepared data and a sound base model."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copy(ROOT / "dvc.yaml", folder)
    data = read_yaml(ROOT / "params.yaml")
    data["prepare"]["equations"] |= {"max_coefficient": 3, "max_solution": 5, "max_constant": 3}
    data["model"] |= {"name_or_path": str(BASE)}
    data["model"]["scratch"] |= {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 16}
    data["sft"] |= {"max_steps": 1, "warmup_steps": 0, "logging_steps": 1, "batch_size": 4}
    (folder / PARAMS).write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["prepare"]) == 0
        params = load_params(PARAMS)
    tokenizer = train_tokenizer(["Solve: 3x - 5 = 10", "x = 5"] * 20, 384)
    model = random_model(params.model.scratch, tokenizer)
    align_special_tokens(model, tokenizer)
    model.save_pretrained(folder / BASE)
    tokenizer.save_pretrained(folder / BASE)
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return load_params(PARAMS)


# ---------------------------------------------------------------------------------------------------------------------
# Faults: what each does to the folder

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


def write(name: str, content: bytes) -> Fault:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Fault:
    return lambda folder: (folder / name).unlink()


def cut(name: str, keep: Callable[[int], int]) -> Fault:
    def fault(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: keep(len(content))])

    return fault


def header(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """Another header before the same bytes."""

    def fault(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(content[:8], "little")
        entries = json.loads(content[8 : 8 + length])
        text = json.dumps(change(entries) or entries).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return fault


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Fault:
    def fault(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return fault


def without(part: str) -> Fault:
    return tensors(lambda weights: [weights.pop(name) for name in list(weights) if part in name])


def filled(name: str, value: float, dtype: torch.dtype = torch.float32) -> Fault:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[name] = weights[name].to(dtype)
        weights[name].view(-1)[-1] = value

    return tensors(change)


def reshaped(name: str, *shape: int) -> Fault:
    return tensors(lambda weights: weights.update({name: torch.ones(shape)}))


def sharded(then: Fault) -> Fault:
    """The weights in two files with an index, and a fault in them."""

    def fault(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        names = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(weights)}
        for file in set(names.values()):
            part = {name: value for name, value in weights.items() if names[name] == file}
            save_file(part, folder / file, metadata={"format": "pt"})
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
        then(folder)

    return fault


def config(**keys: Any) -> Fault:
    def fault(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return fault


def pickled(content: bytes) -> Fault:
    def fault(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return fault


def more_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    first = max(token["id"] for token in data["added_tokens"])
    first = max(first, *data["model"]["vocab"].values()) + 1
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    data["added_tokens"] += [{"id": first + n, "content": f"<new{n}>", **plain} for n in range(4)]
    path.write_text(json.dumps(data))


NORM, EMBEDDING, LAYER = "model.norm.weight", "model.embed_tokens.weight", "model.layers.1."
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 741864\n"
LAST = "model-00002-of-00002.safetensors"
FAULTS: dict[str, Fault] = {
    "half of the weights": cut(WEIGHTS, lambda size: size // 2),
    "a byte too few": cut(WEIGHTS, lambda size: size - 1),
    "four bytes": cut(WEIGHTS, lambda size: 4),
    "half of the header": cut(WEIGHTS, lambda size: 200),
    "empty weights": write(WEIGHTS, b""),
    "text for weights": write(WEIGHTS, b"these are no weights, but there are many of them " * 20),
    "a pointer of git-lfs": write(WEIGHTS, LFS),
    "zeros for weights": write(WEIGHTS, bytes(4096)),
    "ones for weights": write(WEIGHTS, b"\xff" * 4096),
    "a header that is a list": write(WEIGHTS, (8).to_bytes(8, "little") + b"[1, 2] \n"),
    "a header that is nested deeply": write(WEIGHTS, (9**5).to_bytes(8, "little") + b"[" * 9**5),
    "a header in latin-1": write(WEIGHTS, (8).to_bytes(8, "little") + b'{"\xe9": 1}'),
    "no offsets": header(lambda entries: entries[NORM].pop("data_offsets") and None),
    "negative offsets": header(lambda entries: entries[NORM].update(data_offsets=[-64, 0])),
    "a shape of other size": header(lambda entries: entries[NORM].update(shape=[17])),
    "a type of other size": header(lambda entries: entries[NORM].update(dtype="F16")),
    "more than the header says": lambda folder: write(WEIGHTS, (folder / WEIGHTS).read_bytes() + b"more")(folder),
    "no weights": remove(WEIGHTS),
    "a folder for weights": lambda folder: [(folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()],
    "a tensor missing": without(LAYER + "mlp.up_proj"),
    "a layer missing": without(LAYER),
    "a norm missing": without(NORM),
    "the embedding missing": without(EMBEDDING),
    "no tensors": without(""),
    "a norm of other shape": reshaped(NORM, 3),
    "an embedding of other width": reshaped(EMBEDDING, 384, 8),
    "a NaN": filled(NORM, float("nan")),
    "an infinity": filled(EMBEDDING, float("inf")),
    "a NaN in bfloat16": filled(NORM, float("nan"), torch.bfloat16),
    "an infinity in float16": filled(NORM, float("-inf"), torch.float16),
    "a NaN in float64": filled(NORM, float("nan"), torch.float64),
    "a shard missing": sharded(remove(LAST)),
    "a shard cut off": sharded(cut(LAST, lambda size: size - 1)),
    "a shard in place of another": sharded(lambda f: shutil.copy(f / LAST.replace("00002-", "00001-", 1), f / LAST)),
    "an index that is no JSON": sharded(write(INDEX, b"{")),
    "an index that is a list": sharded(write(INDEX, b"[]")),
    "an index without a map": sharded(write(INDEX, b"{}")),
    "an index with an empty map": sharded(write(INDEX, b'{"weight_map": {}}')),
    "an index of numbers": sharded(write(INDEX, b'{"weight_map": {"a": 1}}')),
    "an empty pickle": pickled(b""),
    "a pickle that is none": pickled(b"not a pickle"),
    "a pickle that runs code": pickled(b"cos\nsystem\n(S'touch ran'\ntR."),
    "no config": remove(CONFIG),
    "an empty config": write(CONFIG, b""),
    "half of a config": cut(CONFIG, lambda size: size // 2),
    "a config that is a list": write(CONFIG, b"[]"),
    "a config in latin-1": write(CONFIG, b'{"model_type": "qwen\xe9"}'),
    "a config that is nested deeply": write(CONFIG, b"[" * 10**5),
    "no model_type": write(CONFIG, b"{}"),
    "an unknown model_type": config(model_type="gpt-9"),
    "bert": config(model_type="bert", architectures=["BertModel"]),
    "t5": write(CONFIG, b'{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}'),
    "a width that is text": config(hidden_size="wide"),
    "a width of zero": config(hidden_size=0),
    "another width": config(hidden_size=32),
    "a layer more": config(num_hidden_layers=3, layer_types=["full_attention"] * 3),
    "a layer less": config(num_hidden_layers=1, layer_types=["full_attention"]),
    "a head of its own that is not there": config(tie_word_embeddings=False),
    "another vocabulary": config(vocab_size=500),
    "no heads": config(num_attention_heads=0),
    "no tokenizer": lambda folder: [(folder / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
    "an empty tokenizer": write("tokenizer.json", b""),
    "a tokenizer that is no JSON": write("tokenizer.json", b"{{"),
    "a tokenizer that is a list": write("tokenizer.json", b"[]"),
    "a tokenizer of nothing": write("tokenizer.json", b"{}"),
    "a tokenizer config that is no JSON": write("tokenizer_config.json", b"{"),
    "a tokenizer config in latin-1": write("tokenizer_config.json", b'{"eos_token": "\xe9"}'),
    "more tokens than rows": more_tokens,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_that_is_no_model_is_refused(name: str, workspace: Params, capsys: pytest.CaptureFixture[str]) -> None:
    FAULTS[name](BASE)
    faults = [finding for finding in check.findings(workspace, "sft") if finding.level == "fault"]
    assert faults or name.startswith("a pickle") or name == "an empty pickle"  # pickles are the stage's to open
    for fault in faults:
        assert fault.do
    with pytest.raises(InputError) as refused:  # without the check, as in a worker of several
        work("sft", workspace)
    assert refused.value.exit_code == 2
    assert str(BASE) in str(refused.value)
    assert not SFT_MODEL.exists()
    assert not Path("ran").exists()


def test_a_sound_folder_is_none_of_them(workspace: Params) -> None:
    assert not [finding for finding in check.findings(workspace, "sft") if finding.level in ("fault", "later")]
    assert main(["sft"]) == 0
    sharded(lambda folder: None)(BASE)
    assert not [finding for finding in check.findings(workspace, "sft") if finding.level in ("fault", "later")]


def test_check_and_stage_exit_with_2(workspace: Params, capsys: pytest.CaptureFixture[str]) -> None:
    FAULTS["a layer missing"](BASE)
    assert main(["check"]) == 2
    assert "fault input | models/base/m: model.layers.1.input_layernorm.weight missing" in capsys.readouterr().out
    assert main(["sft"]) == 2
    assert "\n  wanted  all weights that config.json asks for" in capsys.readouterr().err


def test_a_model_that_is_adopted_is_looked_at_too(workspace: Params) -> None:
    FAULTS["a NaN"](BASE)
    with pytest.raises(InputError, match=r"models/base/m\n  got     no finite numbers in 1 weights, first model.norm"):
        work("sft", workspace.model_copy(update={"sft": None}))
    assert not SFT_MODEL.exists()


def test_values_are_looked_at_as_long_as_there_is_time(workspace: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS["a NaN in bfloat16"](BASE)
    found = read_weights(BASE)
    look = look_at_values(found, seconds=60)
    assert look.lost is not None
    assert look.lost.name == NORM
    hurried = look_at_values(found, seconds=0)
    assert (hurried.lost, hurried.all_read) == (None, False)
    monkeypatch.setattr("posttrain.commands.check.models.SECONDS", 0)
    assert "the stage looks at the rest" in values("weights", BASE, found).saw


# ---------------------------------------------------------------------------------------------------------------------
# Names that are no folder, cards, outputs of other params


@pytest.mark.parametrize("name", ["models/base/typo", "./typo", "someone/model"])
def test_a_model_that_is_not_there_is_a_fault(name: str, workspace: Params) -> None:
    params = workspace.model_copy(update={"model": workspace.model.model_copy(update={"name_or_path": name})})
    faults = [finding for finding in check.findings(params, "sft") if finding.level == "fault"]
    assert [finding.where for finding in faults] == [
        "params.yaml: model.revision" if name == "someone/model" else "params.yaml: model.name_or_path"
    ]


def test_a_model_on_the_hub_is_said_to_be_unchecked(workspace: Params) -> None:
    update = {"name_or_path": "someone/model", "revision": "0" * 40}
    params = workspace.model_copy(update={"model": workspace.model.model_copy(update=update)})
    found = {finding.name: finding for finding in check.findings(params, "sft")}
    assert (found["weights of the base"].level, found["tags"].level) == ("later", "later")
    assert "on the Hub; cannot be checked before `posttrain sft`" in found["weights of the base"].saw


def test_a_card_nested_deeply_declares_no_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\na: {'[' * 5000}\n---\n")
    assert licence_of(tmp_path) is None


def test_outputs_of_other_params_are_stale(workspace: Params, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft"]) == 0
    assert changes_since(PREPARED, workspace) == changes_since(SFT_MODEL, workspace) == []
    capsys.readouterr()
    text = PARAMS.read_text(encoding="utf-8")
    PARAMS.write_text(
        text.replace('"max_test": null', '"max_test": 5').replace('"sft": {"max_steps": 1', '"sft": {"max_steps": 2')
    )
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    stale = [line for line in lines if "stale" in line]
    assert stale[0].startswith(
        "warn  output of prepare | data/prepared: stale: made with prepare.max_test null, now 5."
    )
    assert stale[1].startswith("warn  output of sft | models/sft: stale: made with sft.max_steps 1, now 2.")
    assert lines[-1].endswith("next: posttrain prepare")
    assert main(["prepare"]) == 0
    assert "another data/prepared" in changes_since(SFT_MODEL, load_params(PARAMS))
