"""Log-probabilities with shared prompts: TRL's numbers, gradients and metrics, with less work."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
import trl.trainer.utils
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from posttrain.grpo.log_probs import LogProbs
from posttrain.grpo.packing import pack
from posttrain.grpo.passes import order_is_free, whole_groups
from posttrain.grpo.shared_prompt import obstacle, share_prompts
from posttrain.grpo.trainer import Trainer, trainer_config
from posttrain.sft.dataset import to_dataset
from posttrain.sft.trainer import Trainer as SFTTrainer
from posttrain.sft.trainer import trainer_config as sft_config
from posttrain.training.trl import small_tiles
from tests.conftest import ParamsWith
from tests.trainers import tiny_checkpoint, tiny_trainer

TEMPERATURE = 0.7
TINY = {
    **{"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "head_dim": 8},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
SHORT = {"sliding_window": 3}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "llama": ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"final_logit_softcapping": 5.0, "attn_implementation": "eager", **SHORT}),
    "gemma3": ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"], **SHORT}),
    "mistral": ("mistral", SHORT),
    "granite": ("granite", {"logits_scaling": 4.0}),
    "falcon": ("falcon", {"alibi": True, "hidden_dropout": 0.0, "head_dim": None}),
    "gpt2": (
        "gpt2",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    ),
}


def tiny(name: str, **changes: Any) -> Any:
    kind, own = MODELS[name]
    options = {key: value for key, value in {**TINY, **own, **changes}.items() if value is not None}
    attention = options.pop("attn_implementation", "sdpa")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **options, attn_implementation=attention)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    return model.train()


def batch(groups: list[tuple[int, list[int]]], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and mask of groups: the length of the prompt and those of its completions. All prompts end alike."""
    draw = torch.Generator().manual_seed(seed)
    prompt, keep = max(length for length, _ in groups), max(length for _, own in groups for length in own) + 2
    rows, masks = [], []
    for length, completions in groups:
        said = torch.randint(3, 61, (length,), generator=draw)
        for tokens in completions:
            row, mask = torch.zeros(prompt + keep, dtype=torch.long), torch.zeros(prompt + keep, dtype=torch.long)
            row[prompt - length : prompt] = said
            row[prompt : prompt + tokens] = torch.randint(3, 61, (tokens,), generator=draw)
            mask[prompt - length : prompt + tokens] = 1
            rows.append(row)
            masks.append(mask)
    return torch.stack(rows), torch.stack(masks), keep


BATCHES = {
    "groups": [(7, [5, 9, 1, 9]), (4, [3, 8, 2, 6]), (6, [4, 4, 7, 1])],
    "masked": [(5, [0, 6, 0, 3]), (3, [2, 0, 5, 1])],  # truncated completions that no loss takes
    "alone": [(5, [3]), (2, [6]), (6, [1])],
    "short": [(3, [1, 1]), (2, [1, 1])],
    "nothing": [(3, [0, 0])],
}


def trls(model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What TRL's own function says, by its own way through a CPU."""
    function = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))
    logps, entropies, _ = function(trainer, model, ids, mask, keep, compute_entropy=True)
    return logps, entropies


def gradient(model: Any, logps: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(1))
    (weights * logps + 0.1 * weights * entropies).sum().backward()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def assert_equal_scores(model: Any, found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-5)
    first, second = gradient(model, *expected), gradient(model, *found)
    assert (first - second).norm() <= 1e-5 * first.norm()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("name", MODELS)
def test_scores_and_gradients_are_trls(name: str, rows: str, share: bool) -> None:
    model = tiny(name)
    ids, mask, keep = batch(BATCHES[rows])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(2))
    ids, mask = ids[order], mask[order]
    expected = trls(model, ids, mask, keep)
    assert (expected[0] != 0).any() or rows == "nothing"
    assert obstacle(model, fsdp=False, recomputes=False) is None
    if share:
        share_prompts(model)
    with small_tiles(model):
        found = LogProbs(share=share, skip=False)(model, model, ids, mask, keep, None)
    assert_equal_scores(model, found, expected)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_group_may_be_split_over_passes(size: int) -> None:
    model = tiny("qwen3")
    ids, mask, keep = batch(BATCHES["groups"])
    expected = trls(model, ids, mask, keep)
    share_prompts(model)
    assert_equal_scores(model, LogProbs(share=True, skip=False)(model, model, ids, mask, keep, size), expected)


def test_equal_tokens_with_other_padding_are_other_prompts() -> None:
    model = tiny("llama")
    ids, mask, keep = batch([(4, [5, 5])])
    ids[:, :2] = 0  # the second prompt begins two tokens later, with the padding's own token
    mask[1, :2] = 0
    expected = trls(model, ids, mask, keep)
    share_prompts(model)
    assert_equal_scores(model, LogProbs(share=True, skip=False)(model, model, ids, mask, keep, None), expected)
    assert not torch.allclose(*expected[0])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], bool]]:
    """Shape of what a model was given, and whether a gradient was kept, call by call."""
    calls: list[tuple[tuple[int, ...], bool]] = []
    embed = nn.Embedding.forward

    def forward(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        calls.append((tuple(ids.shape), torch.is_grad_enabled()))
        return embed(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", forward)
    return calls


def test_a_prompt_is_computed_once_and_short_completions_share_rows(seen: list[Any]) -> None:
    model = tiny("qwen2")
    ids, mask, keep = batch(BATCHES["groups"])
    share_prompts(model)
    LogProbs(share=True, skip=False)(model, model, ids, mask, keep, None)
    # The longest completion has 9 tokens, and nothing comes after its last. Rows: 8, 8, 5+1 | 8, 6+2, 3 | 7+1, 4+4.
    assert seen == [((3, 7), True), ((8, 8), True)]
    seen.clear()
    LogProbs(share=True, skip=False)(model, model, ids[4:8], mask[4:8], keep, None)
    assert seen == [((1, 4), True), ((3, 7), True)]
    seen.clear()
    LogProbs(share=True, skip=False)(model, model, *batch(BATCHES["masked"]), None)
    assert seen == [((2, 5), True), ((4, 5), True)]  # three of eight have no token that counts


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_where_a_layer_has_a_window_each_completion_has_its_row(name: str, seen: list[Any]) -> None:
    model = tiny(name)
    share_prompts(model)
    LogProbs(share=True, skip=False)(model, model, *batch(BATCHES["groups"]), None)
    assert seen == [((3, 7), True), ((12, 8), True)]


def test_a_mask_with_a_hole_is_left_as_it_is() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]).bool()
    prompts = torch.zeros(3, dtype=torch.long)
    packed = pack(mask, prompts)
    assert packed is not None
    assert packed.whose_BW.tolist() == [[0, 0, 0, 0], [1, 2, -1, -1]]
    assert pack(mask.logical_and(torch.tensor([True, False, True, True])), prompts) is None
    assert pack(mask, torch.arange(3)) is None  # each has a prompt of its own


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=24))
def test_every_token_has_one_place_and_attends_to_its_own(rows: list[tuple[int, int]]) -> None:
    lengths, prompts = torch.tensor([length for length, _ in rows]), torch.tensor([prompt for _, prompt in rows])
    columns = torch.arange(max(1, int(lengths.max())))
    mask = columns < lengths[:, None]
    packed = pack(mask, prompts)
    if packed is None:
        return
    ids = torch.arange(1, mask.numel() + 1).view_as(mask) * mask
    placed = packed.rows(ids, mask)
    assert torch.equal(placed.flatten().sort().values[-int(mask.sum()) :], ids[mask].sort().values)
    assert torch.equal(packed.unpack(placed[..., None])[..., 0][mask], ids[mask])
    assert packed.whose_BW.shape[1] <= mask.shape[1]
    assert len(packed.of_row_B) < len(rows)
    seen = packed.mask(torch.ones(4, 2))
    for number, (length, prompt) in enumerate(rows):
        for column, place in enumerate(packed.places_NC[number, :length].tolist()):
            row, at = divmod(place, placed.shape[1])
            assert packed.of_row_B[row] == prompt
            shown = placed[row][seen[row, 0, at, 2:]]
            assert seen[row, 0, at, :2].all()
            assert sorted(shown.tolist()) == ids[number, : column + 1].tolist()


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Positions that went through the LM head, and the columns of its tiles, call by call."""
    calls: list[tuple[int, int]] = []
    function = trl.trainer.utils._ChunkedLogProbFunction

    class Spy:
        @staticmethod
        def apply(hidden: torch.Tensor, *others: Any) -> Any:
            calls.append((len(hidden), others[4]))
            return function.apply(hidden, *others)

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", Spy)
    return calls


def test_the_head_sees_completions_alone_on_tiles_of_the_vocabulary(tiles: list[Any]) -> None:
    model = tiny("qwen2")
    ids, mask, keep = batch(BATCHES["groups"])
    with small_tiles(model):
        LogProbs(share=False, skip=False)(model, model, ids, mask, keep, None)
    trls(model, ids, mask, keep)  # what TRL does by itself is as it was
    counted = sum(length for _, own in BATCHES["groups"] for length in own)
    assert tiles == [(counted, 64), (ids.shape[0] * (ids.shape[1] - 1), 32768)]


@pytest.fixture
def sft(tmp_path: Path, params_with: ParamsWith) -> SFTTrainer:
    params = params_with({"model.scratch.hidden_size": 16, "model.scratch.num_hidden_layers": 1, "sft.batch_size": 4})
    traces = [{"id": "", "problem": row["problem"], "completion": f"{row['answer']} at last"} for row in ROWS]
    torch.manual_seed(0)
    tokenizer = tiny_checkpoint(params, ROWS, tmp_path / "model")
    dataset, _ = to_dataset(traces, tokenizer, params, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    return SFTTrainer(params, model, tokenizer, dataset, sft_config(params, tmp_path / "trainer"))


def test_a_step_of_sft_is_trls(sft: SFTTrainer) -> None:
    """Loss, gradients and metrics of the step with and without the head's smaller tiles."""
    sft.model.train()
    rows = sft.data_collator([sft.train_dataset[row] for row in range(4)])
    found = {}
    for name, step in {"ours": sft.training_step, "trl": partial(trl.SFTTrainer.training_step, sft)}.items():
        sft.model.zero_grad()
        sft._metrics["train"].clear()
        sft.current_gradient_accumulation_steps = 1
        loss = step(sft.model, dict(rows), torch.tensor(int((rows["labels"] != -100).sum())))
        metrics = {kind: values[-1] for kind, values in sft._metrics["train"].items() if kind != "num_tokens"}
        found[name] = loss, torch.cat([value.grad.flatten() for value in sft.model.parameters()]), metrics
    (loss, gradient, metrics), (other, expected, others) = found.values()
    assert loss == pytest.approx(float(other), rel=1e-6)
    assert (gradient - expected).norm() <= 1e-6 * expected.norm()
    assert {"entropy", "mean_token_accuracy"} <= metrics.keys()
    assert metrics == pytest.approx(others, rel=1e-5)


def test_a_step_of_sft_sends_completions_alone_through_the_head(sft: SFTTrainer, tiles: list[Any]) -> None:
    sft.model.train()
    rows = sft.data_collator([sft.train_dataset[row] for row in range(4)])
    sft.current_gradient_accumulation_steps = 1
    counted = int((rows["labels"] != -100).sum())
    sft.training_step(sft.model, dict(rows), torch.tensor(counted))
    assert tiles == [(counted, -(-sft.model.config.vocab_size // 16) * 16)]
    assert counted < rows["labels"].numel() / 2


def test_adapters_learn_the_same() -> None:
    model = tiny("qwen2")
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.0, init_lora_weights=False)
    )
    ids, mask, keep = batch(BATCHES["groups"])
    expected = trls(adapted, ids, mask, keep)
    assert obstacle(model, fsdp=False, recomputes=False) is None
    share_prompts(model)
    found = LogProbs(share=True, skip=False)(adapted, adapted, ids, mask, keep, None)
    assert_equal_scores(adapted, found, expected)
    with adapted.disable_adapter(), torch.no_grad():
        base = LogProbs(share=True, skip=False)(adapted, adapted, ids, mask, keep, None)
        assert torch.allclose(base[0], trls(adapted, ids, mask, keep)[0], atol=1e-5)
    assert not torch.allclose(base[0], found[0], atol=1e-2)


def test_a_model_that_shares_prompts_generates_and_scores_by_itself_as_before() -> None:
    model, other = tiny("qwen2").eval(), tiny("qwen2").eval()
    share_prompts(model)
    ids, mask, _ = batch([(5, [3, 4])])
    assert torch.equal(
        model(input_ids=ids, attention_mask=mask).logits, other(input_ids=ids, attention_mask=mask).logits
    )
    made = [one.generate(ids[:1, :5], max_new_tokens=6, do_sample=False) for one in (model, other)]
    assert torch.equal(*made)


# ---------------------------------------------------------------------------------------------------------------------
# Where prompts are not shared


def dropped(rate: float) -> Callable[[], Any]:
    return lambda: (
        get_peft_model(tiny("qwen2"), LoraConfig(r=2, target_modules="all-linear", lora_dropout=rate)).base_model.model
    )


MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OBSTACLES: dict[str, tuple[Callable[[], Any], str]] = {
    "dropout of adapters": (dropped(0.1), "dropout of 0.1"),
    "dropout of attention": (lambda: tiny("llama", attention_dropout=0.2), "dropout of 0.2"),
    "experts": (lambda: transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**TINY, **MIXTURE)), "experts"),
    "state": (
        lambda: transformers.MambaForCausalLM(
            transformers.MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1)
        ),
        "linear_attention",
    ),
    "other layers": (
        lambda: transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**TINY, layer_types=["conv", "full_attention"])),
        "conv",
    ),
    "positions by the mask": (
        lambda: transformers.OPTForCausalLM(
            transformers.OPTConfig(
                vocab_size=61, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2
            )
        ),
        "without the padding",
    ),
    "no positions": (
        lambda: transformers.BloomForCausalLM(
            transformers.BloomConfig(vocab_size=61, hidden_size=16, n_layer=1, n_head=2, attention_dropout=0.0)
        ),
        "more of a prompt",
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_a_model_that_keeps_more_of_a_prompt_says_so(name: str) -> None:
    make, said = OBSTACLES[name]
    why = obstacle(make(), fsdp=False, recomputes=False)
    assert why is not None
    assert said in why


def test_what_the_run_does_can_stand_in_the_way() -> None:
    model = tiny("qwen2")
    assert "fsdp" in str(obstacle(model, fsdp=True, recomputes=False))
    assert "recomputed" in str(obstacle(model, fsdp=False, recomputes=True))
    model.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in str(obstacle(model, fsdp=False, recomputes=False))


# ---------------------------------------------------------------------------------------------------------------------
# In the trainer

ROWS = [{"id": str(x), "problem": f"Solve: {x}x - 5 = {3 * x - 5}", "answer": f"x = {x}"} for x in (2, 13, 117, 4)]
SMALL = {
    "model.scratch.num_hidden_layers": 2,
    "model.scratch.hidden_size": 16,
    "model.scratch.intermediate_size": 16,
    "rewards": {"accuracy": {"weight": 1.0}},
    "grpo.max_completion_length": 8,
    "grpo.prompts_per_step": 4,
    "grpo.num_generations": 4,
    "launch.micro_batch_size": 8,
}


def by_place(completions: list[Any], **_: Any) -> list[float]:
    """Groups with and without spread, in turn."""
    return [float(place % 4 == 0) if place // 4 % 2 else 1.0 for place in range(len(completions))]


def completions(prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
    """Of 3 to 8 tokens, of which some end and some are cut short."""
    ends = [[2] if place % 3 else [] for place in range(len(prompt_ids))]
    return [[20 + place + token for token in range(3 + place % 5)] + end for place, end in enumerate(ends)], None


def inputs_of(trainer: Trainer) -> list[dict[str, Any]]:
    """The passes of a step, as TRL makes them."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    dataset = trainer.train_dataset
    trainer._generate_single_turn = completions  # type: ignore[method-assign]
    trainer._prepare_inputs([dataset[row] for row in range(4) for _ in range(4)])
    return list(trainer._buffered_inputs)


def gradients(trainer: Trainer, passes: list[dict[str, Any]]) -> tuple[torch.Tensor, dict[str, Any]]:
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    for one in passes:
        trainer.compute_loss(trainer.model, one).backward()
    found = torch.cat([value.grad.flatten() for value in trainer.model.parameters() if value.grad is not None])
    return found, {name: list(values) for name, values in trainer._metrics["train"].items()}


def as_trl(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        type(trainer), "_get_per_token_logps_and_entropies", GRPOTrainer._get_per_token_logps_and_entropies
    )


LOSSES = [
    *({"grpo.loss_type": name} for name in ("grpo", "bnpo", "dr_grpo", "dapo", "sapo", "luspo", "vespo")),
    {"grpo.loss_type": "cispo", "grpo.epsilon_high": 1.2},
    {"grpo.importance_sampling_level": "sequence"},
    {"grpo.beta": 0.0},
    {"grpo.mask_truncated_completions": True},
    {"grpo.trl": {"top_entropy_quantile": 0.4}},
    {"grpo.trl": {"entropy_coef": 0.1}, "grpo.beta": 0.0},
    {"model.lora": {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear", "quantize_4bit": False}},
]


@pytest.mark.parametrize("changes", LOSSES, ids=str)
def test_losses_gradients_and_metrics_are_trls(
    changes: dict[str, Any], params_with: ParamsWith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(params_with(SMALL | changes), ROWS, by_place, tmp_path)
    assert trainer.scorer.share
    passes = inputs_of(trainer)
    for value in trainer.model.parameters():  # off the reference, and ratios other than 1
        value.data.add_(0.02 * torch.randn(value.shape))
    drift = torch.Generator().manual_seed(3)
    for one in passes:
        one["old_per_token_logps"] = trls_of(trainer, one) + 0.3 * torch.randn(
            one["completion_ids"].shape, generator=drift
        )
    found, metrics = gradients(trainer, passes)
    as_trl(trainer, monkeypatch)
    expected, others = gradients(trainer, passes)
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert metrics.keys() == others.keys()
    for name, values in others.items():
        assert metrics[name] == pytest.approx(values, rel=1e-4, abs=1e-6, nan_ok=True), name


def trls_of(trainer: Trainer, one: dict[str, Any]) -> torch.Tensor:
    ids = torch.cat([one["prompt_ids"], one["completion_ids"]], dim=1)
    mask = torch.cat([one["prompt_mask"], one["completion_mask"]], dim=1)
    with torch.no_grad():
        return trls(trainer.model, ids, mask, one["completion_ids"].shape[1])[0]


@pytest.mark.parametrize(
    ("beta", "compared", "taught", "computed"),
    [(0.0, False, 1 + 4, (1 + 1) + 4), (0.0, True, 1 + 4, 16), (0.01, False, 16, 16)],
)
def test_rows_without_an_advantage_have_no_backward_pass_only_where_their_gradient_is_zero(
    beta: float,
    compared: bool,
    taught: int,
    computed: int,
    params_with: ParamsWith,
    tmp_path: Path,
    seen: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pass without any advantage keeps one row: other processes may wait for its gradient. A prompt of which no row
    has one is computed with one completion, for the entropy."""
    trainer = tiny_trainer(params_with(SMALL | {"grpo.beta": beta}), ROWS, by_place, tmp_path)
    passes = inputs_of(trainer)
    passes[0]["advantages"] = torch.zeros(8)
    passes[1]["advantages"] = torch.tensor([0.0, 0.5] * 4)
    for one in passes:
        one["old_per_token_logps"] = trls_of(trainer, one) if compared else None
    seen.clear()
    found, metrics = gradients(trainer, passes)
    assert sum(shape[0] for shape, kept in seen[1::2] if kept) == taught
    assert sum(shape[0] for shape, _ in seen[1::2]) == computed
    as_trl(trainer, monkeypatch)
    expected, others = gradients(trainer, passes)
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    for name, values in others.items():
        near = 0.02 if name == "entropy" else 1e-4  # of a model whose weights are random
        assert metrics[name] == pytest.approx(values, rel=near, abs=1e-6, nan_ok=True), name


def test_one_completion_tells_the_entropy_of_those_of_its_prompt_without_an_advantage() -> None:
    """The first with tokens, of those with an advantage if there are any."""
    model = tiny("qwen2")
    ids, mask, keep = batch([(5, [0, 6, 4, 3]), (3, [2, 4, 5, 1]), (4, [0, 0, 0, 0])])
    own = mask[:, -keep:]
    expected_logps, expected = trls(model, ids, mask, keep)
    share_prompts(model)
    scorer = LogProbs(share=True, skip=True)
    advantages = torch.tensor([0.0, 0, 0, 0, 0, 0.5, 0, -0.5, 0, 0, 0, 0])
    with scorer.loss_of(advantages, compared=False):
        logps, entropies = scorer(model, model, ids, mask, keep, None)
    assert entropies is not None
    means = (expected * own).sum(1) / own.sum(1)
    for row, like in enumerate([1, 1, 1, 1, 5, None, 5, None]):
        wanted = expected[row] * own[row] if like is None else means[like] * own[row]
        assert torch.allclose(entropies[row] * own[row], wanted, atol=1e-5), row
        wanted = expected_logps[row] * own[row]
        if like is None:
            assert torch.allclose(logps[row] * own[row], wanted, atol=1e-5), row
    assert not (entropies * own)[8:].any()


def test_the_reason_is_one_line(params_with: ParamsWith, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = {"r": 2, "alpha": 4, "dropout": 0.1, "target_modules": "all-linear", "quantize_4bit": False}
    trainer = tiny_trainer(params_with(SMALL | {"model.lora": adapter}), ROWS, by_place, tmp_path)
    assert not trainer.scorer.share
    assert capsys.readouterr().out.count("not once for its group: dropout of 0.1") == 1


# ---------------------------------------------------------------------------------------------------------------------
# Passes


@pytest.fixture
def shuffled() -> list[dict[str, Any]]:
    """Eight passes of two rows, of four groups of four; two optimizer steps."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(4).repeat_interleave(4)[:, None].expand(16, 3)[order]
    return [
        {
            "prompt_ids": ids[start : start + 2],
            "prompt_mask": torch.ones(2, 3),
            "advantages": order[start : start + 2].float(),
            "num_items_in_batch": torch.tensor(7),
            "names": [str(int(row)) for row in order[start : start + 2]],
            "old_per_token_logps": None,
        }
        for start in range(0, 16, 2)
    ]


def test_a_step_keeps_its_rows_and_groups_stay_together(shuffled: list[dict[str, Any]]) -> None:
    sorted_ = whole_groups(shuffled, accumulation=4)
    for step in (slice(0, 4), slice(4, 8)):
        before, after = (torch.cat([one["advantages"] for one in passes[step]]) for passes in (shuffled, sorted_))
        assert sorted(before.tolist()) == sorted(after.tolist())
        prompts = torch.cat([one["prompt_ids"][:, 0] for one in sorted_[step]]).tolist()
        assert len([1 for one, other in pairwise(prompts) if one != other]) == len(set(prompts)) - 1
    for one in sorted_:
        assert one["names"] == [str(int(row)) for row in one["advantages"]]
        assert torch.equal(one["prompt_ids"][:, 0], (one["advantages"] // 4).long())
        assert (int(one["num_items_in_batch"]), one["old_per_token_logps"]) == (7, None)


def test_passes_that_make_no_whole_steps_stay(shuffled: list[dict[str, Any]]) -> None:
    assert whole_groups(shuffled, accumulation=3) is shuffled


def test_a_loss_that_depends_on_its_pass_keeps_trls(params_with: ParamsWith, tmp_path: Path) -> None:
    def free(**changes: Any) -> bool:
        return order_is_free(trainer_config(params_with(SMALL | changes), tmp_path))

    assert free()
    assert not free(**{"grpo.loss_type": "bnpo"})
    assert not free(**{"grpo.trl": {"top_entropy_quantile": 0.5}})
    assert not free(**{"grpo.trl": {"entropy_coef": 0.1}})
