"""The sft stage and what it shares with grpo: tokenizer, template, masking, batch arithmetic, the curve."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from trl import SFTTrainer

from posttrain import templates
from posttrain.cli import main
from posttrain.errors import EXIT_WRONG_INPUT, InputError
from posttrain.params.file import read_yaml
from posttrain.params.schema import Params
from posttrain.paths import CHECKPOINTS, PARAMS, SFT_MODEL, SFT_RESULTS
from posttrain.prompts import TAGS, completion_text, prompt_messages
from posttrain.sft import traces as sft_traces
from posttrain.sft import trainer as sft_trainer
from posttrain.sft.dataset import to_dataset
from posttrain.templates import require_turn
from posttrain.training.batches import batch_plan
from posttrain.training.curve import Curve
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.models import align_special_tokens, load_model
from posttrain.training.pretrained import load_tokenizer
from tests.conftest import params_of

ROOT = Path(__file__).parents[2]
ROWS = [
    {
        "id": str(x),
        "problem": f"Solve: 3x - 5 = {3 * x - 5}",
        "completion": completion_text(f"3x = {3 * x}", f"x = {x}"),
    }
    for x in range(2, 10)
]


@pytest.fixture(scope="module")
def params() -> Params:
    return params_of({})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([row["problem"] + "\n" + row["completion"] for row in ROWS], 384)


def test_tags_are_whole_tokens_that_survive_decoding_without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    text = completion_text("3x = 15", "x = 5")
    ids = tokenizer(text + "<|im_end|>")["input_ids"]
    assert all(tokenizer.convert_tokens_to_ids(tag) in ids for tag in TAGS)
    # TRL decodes like this before it calls a reward: special tags would be gone.
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_digit_and_sign_is_a_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("15-7") == ["1", "5", "-", "7"]


def test_the_tokenizer_does_not_depend_on_the_run(tokenizer: PreTrainedTokenizerBase) -> None:
    again = train_tokenizer([row["problem"] + "\n" + row["completion"] for row in ROWS], 384)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_loss_is_on_the_completion_only(params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    dataset, _ = to_dataset(ROWS[:2], tokenizer, params, tmp_path)
    model = random_model(params.model.scratch, tokenizer)
    trainer = SFTTrainer(
        model=model,
        args=sft_trainer.trainer_config(params, tmp_path),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[0]])
    learnt = batch["input_ids"][0][batch["labels"][0] != -100]
    text = tokenizer.decode(learnt)
    # Everything that the model has to say, its end token included, and nothing of the question.
    assert text.startswith(ROWS[0]["completion"] + "<|im_end|>")
    assert "Solve" not in text
    assert "Solve" in tokenizer.decode(batch["input_ids"][0])


def test_for_the_shipped_template_rows_are_those_that_trl_renders(
    params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    replies = [[{"role": "assistant", "content": row["completion"]}] for row in ROWS]
    prompts = [prompt_messages(row["problem"], None) for row in ROWS]
    rendered = Dataset.from_dict({"prompt": prompts, "completion": replies})
    ours, _ = to_dataset(ROWS, tokenizer, params, tmp_path)
    model, args = random_model(params.model.scratch, tokenizer), sft_trainer.trainer_config(params, tmp_path)
    prepared = replace(args, dataset_kwargs=None)
    mine, trls = (
        SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer).train_dataset
        for config, rows in ((args, ours), (prepared, rendered))
    )
    assert mine.to_list() == [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in trls]


def test_without_completion_only_loss_the_question_is_trained_on_as_well(
    params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    for value, whole in ((True, False), (False, True), (None, True)):
        sft = params.require_sft().model_copy(update={"trl": {"completion_only_loss": value}})
        other = params.model_copy(update={"sft": sft})
        dataset, _ = to_dataset(ROWS[:1], tokenizer, other, tmp_path / str(value))
        assert (dataset[0]["labels"] == dataset[0]["input_ids"]) == whole


def test_a_prompt_whose_last_token_spans_the_completion_is_tokenized_by_itself(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    (two,) = tokenizer(["Solve"], add_special_tokens=False)["input_ids"]
    assert len(two) < 5, "merges"
    texts = [("Sol", "ve"), ("Sol", "Sol"), ("Solve: ", "ve")]
    for (prompt, reply), (asked, said) in zip(texts, sft_traces.to_tokens(tokenizer, texts), strict=True):
        assert (tokenizer.decode(asked), tokenizer.decode(said)) == (prompt, reply)
        assert asked == tokenizer(prompt, add_special_tokens=False)["input_ids"]


def test_long_rows_are_counted_not_cut(params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    long = {"problem": ROWS[0]["problem"], "completion": completion_text("1 " * 200, "x = 1")}
    rows = [*ROWS[:4], *({"id": f"long {number}", **long} for number in range(12)), *ROWS[4:]]
    dataset, lengths = to_dataset(rows, tokenizer, params, tmp_path)
    assert (len(dataset), lengths.too_long) == (len(ROWS), 12)
    assert lengths.metrics["too_long_ids"] == [f"long {number}" for number in range(10)]
    assert "8 traces; 12 left out, longer than sft.max_length (those of long 0, long 1, " in lengths.told()
    alone, _ = to_dataset(ROWS, tokenizer, params, tmp_path / "alone")
    assert dataset.to_list() == alone.to_list()


def test_batches_change_nothing_and_render_each_problem_once(
    params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**row, "completion": f"{row['completion']}{again}"} for again in range(3) for row in ROWS]
    whole, _ = to_dataset(rows, tokenizer, params, tmp_path / "whole")
    rendered = []

    def render(model: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
        rendered.append(messages[-1]["content"])
        return templates.render(model, messages)

    monkeypatch.setattr(sft_traces, "render", render)
    monkeypatch.setattr(sft_traces, "CHARACTERS", 2 * len(rows[0]["problem"] + rows[0]["completion"]) + 4)
    batches, _ = to_dataset(rows, tokenizer, params, tmp_path / "batches")
    assert batches.data.table["input_ids"].num_chunks == 12
    assert batches.to_list() == whole.to_list()
    assert rendered == [row["problem"] for row in ROWS]


def test_rows_are_read_as_they_are_tokenized(
    params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, ahead, to_tokens = [], [], sft_traces.to_tokens

    def rows() -> Iterator[dict[str, str]]:
        for row in ROWS * 25:
            read.append(row)
            yield row

    def tokens(model: PreTrainedTokenizerBase, texts: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        ahead.append(len(read) - sum(ahead))
        return to_tokens(model, texts)

    monkeypatch.setattr(sft_traces, "to_tokens", tokens)
    monkeypatch.setattr(sft_traces, "CHARACTERS", 10 * len(ROWS[0]["problem"] + ROWS[0]["completion"]))
    dataset, lengths = to_dataset(rows(), tokenizer, params, tmp_path)
    assert len(dataset) == lengths.traces == sum(ahead) == 200
    assert max(ahead) <= 11, "a batch, and the row that did not fit in"


def test_half_a_dataset_is_not_trusted(params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield from ROWS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_dataset(rows(), tokenizer, params, tmp_path)
    assert not (tmp_path / "dataset").exists()


def test_all_rows_too_long_is_an_error_with_the_longest(
    params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    short = params.model_copy(update={"sft": params.sft.model_copy(update={"max_length": 16})})
    text = tokenizer.apply_chat_template(
        [*prompt_messages(ROWS[0]["problem"], None), {"role": "assistant", "content": ROWS[0]["completion"]}],
        tokenize=False,
    )
    length = len(tokenizer(text)["input_ids"])
    with pytest.raises(InputError, match=rf"(?s)sft.max_length.*longest has {length} tokens"):
        to_dataset(ROWS[:1], tokenizer, short, tmp_path)


@pytest.mark.parametrize(
    ("sequences", "micro", "processes", "expected"),
    [
        (128, 128, 1, (128, 1)),
        (128, 200, 1, (128, 1)),
        (128, 100, 1, (64, 2)),
        (96, 20, 1, (16, 6)),
        (7, 4, 1, (1, 7)),  # a prime number of sequences only divides into single ones
        (128, 128, 8, (16, 1)),
        (96, 20, 4, (12, 2)),
        (8, 128, 8, (1, 1)),
    ],
)
def test_batch_plan_splits_evenly(sequences: int, micro: int, processes: int, expected: tuple[int, int]) -> None:
    plan = batch_plan(sequences, micro, processes)
    assert (plan.per_device, plan.accumulation) == expected


def test_a_batch_that_does_not_divide_is_refused_with_a_number_that_does() -> None:
    with pytest.raises(InputError, match="use 4 processes"):
        batch_plan(96, 20, 5)


def test_an_epoch_has_whole_steps_of_the_order_it_always_had(
    params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """23 rows in steps of 5: 20 of them an epoch, the first 20 that the sampler of torch draws."""
    text = {"input_ids": [1, 2], "labels": [-100, 2]}
    shrunk = params.model_copy(update={"sft": params.sft.model_copy(update={"batch_size": 5})})
    model, dataset = random_model(params.model.scratch, tokenizer), Dataset.from_list([text] * 23)
    trainer = sft_trainer.Trainer(shrunk, model, tokenizer, dataset, sft_trainer.trainer_config(shrunk, tmp_path))
    sampler = trainer._get_train_sampler(trainer.train_dataset)
    assert len(sampler) == 20
    torch.manual_seed(3)
    mine = list(sampler)
    torch.manual_seed(3)
    assert mine == list(torch.utils.data.RandomSampler(range(23)))[:20]


def test_end_padding_and_generation_agree(params: Params, tokenizer: PreTrainedTokenizerBase) -> None:
    model = random_model(params.model.scratch, tokenizer)
    align_special_tokens(model, tokenizer)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == model.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.eos_token == "<|im_end|>" != tokenizer.pad_token


def test_a_published_checkpoint_loads_again(params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = random_model(params.model.scratch, tokenizer)
    align_special_tokens(model, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), params.model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    loaded = load_tokenizer(str(tmp_path), params.model)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    text = "Solve: 12x - 7 = 101, or (1/2)x'll do?\n\n x"  # signs, spaces and line ends, where pre-tokenizers differ
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_model_folder_without_tokenizer_says_so(
    params: Params, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    random_model(params.model.scratch, tokenizer).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="without a tokenizer"):
        load_tokenizer(str(tmp_path), params.model)


def test_a_tokenizer_without_chat_template_says_so(tokenizer: PreTrainedTokenizerBase) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|im_end|>")
    with pytest.raises(InputError, match="without a chat template"):
        require_turn(bare, "models/x", None)


def test_a_turn_that_does_not_end_with_the_end_token_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>")
    other.chat_template = tokenizer.chat_template
    with pytest.raises(InputError, match=r"(?s)<\|im_end\|>.*generation never stops"):
        require_turn(other, "models/x", None)


def diverging(project: Path, **sft: float) -> Path:
    """A prepared workspace whose sft leaves float32 behind; where its checkpoints go."""
    data = read_yaml(PARAMS)
    data["prepare"]["equations"] |= {"max_coefficient": 3, "max_solution": 5, "max_constant": 3}
    data["prepare"]["equations"]["traces_per_problem"] = 2
    data["model"]["scratch"] |= {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    data["sft"] |= {"learning_rate": 1e30, "max_grad_norm": 1e9, "warmup_steps": 0, "max_steps": 8, "batch_size": 4}
    data["sft"] |= {"logging_steps": 1, **sft}
    data["launch"] |= {"processes": 1, "checkpoint_every_s": 0 if sft else 1000}
    PARAMS.write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
    assert main(["prepare"]) == 0
    return CHECKPOINTS / "sft"


def test_a_run_that_diverges_names_value_and_step_and_publishes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diverging(project)
    assert main(["sft"]) == EXIT_WRONG_INPUT
    told = capsys.readouterr().err
    assert re.search(
        r"sft, step 2\n  got     loss nan, gradient norm nan; no finite numbers in .*, first model.embed_tokens.weight",
        told,
    )
    assert "lower sft.learning_rate (1e+30) or sft.max_grad_norm (1e+09)" in told
    assert not SFT_MODEL.exists()
    assert not SFT_RESULTS.exists()


def test_the_last_step_is_looked_at_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diverging(project, max_steps=1)
    assert main(["sft"]) == EXIT_WRONG_INPUT
    assert "sft, step 1\n  got     weights so large that no log-probability" in capsys.readouterr().err
    assert not SFT_MODEL.exists()


def test_the_last_good_checkpoint_stays_and_none_is_written_of_lost_weights(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = diverging(project, warmup_steps=2)  # the first step has a learning rate of 0
    assert main(["sft"]) == EXIT_WRONG_INPUT
    assert "the checkpoint of step 1 is sound and stays" in capsys.readouterr().err
    (left,) = checkpoints.glob("*/step-*")
    assert left.name == "step-1"
    weights = load_file(left / "model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())


@pytest.mark.parametrize("name", ["./nowhere", "models/base/nothing/here"])
def test_a_missing_model_folder_says_so(params: Params, name: str) -> None:
    with pytest.raises(InputError, match=r"model\.name_or_path"):
        load_tokenizer(name, params.model)


def test_a_hub_model_needs_a_commit(params: Params) -> None:
    with pytest.raises(InputError, match=r"model\.revision"):
        load_tokenizer("organisation/model", params.model)


def test_curve_writes_what_was_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curve = Curve("sft", {"loss": "loss", "entropy": "entropy", "kl": "kl"}, ("loss",))
    args = SimpleNamespace(logging_steps=1)
    curve.on_train_begin(args, SimpleNamespace(max_steps=2, global_step=0), SimpleNamespace())
    for step, logs in ((1, {"loss": 2.0, "entropy": 0.5, "ignored": 9}), (2, {"loss": 1.0})):
        curve.on_log(args, SimpleNamespace(max_steps=2, global_step=step), SimpleNamespace(), logs=logs)
    curve.on_log(args, SimpleNamespace(max_steps=2, global_step=2), SimpleNamespace(), logs={"train_runtime": 3})
    curve.write(tmp_path / "curve.tsv")
    # A quantity that was never logged has no column; one that is missing at a step has an empty cell.
    assert (tmp_path / "curve.tsv").read_text() == "step\tloss\tentropy\n1\t2\t0.5\n2\t1\t\n"
    assert "sft 2/2 | loss 1 |" in capsys.readouterr().out
    assert curve.mean("loss", 0, 1) == 1.5
    assert curve.mean("kl", 0, 1) is None
