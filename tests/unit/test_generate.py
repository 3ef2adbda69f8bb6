"""The engine that draws completions: transformers' own tokens, the model's own distribution, whatever the batch."""

import math
from collections import Counter
from types import MethodType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chi2
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from posttrain.generation import cache, llama, sampling
from posttrain.generation.copied import Copied
from posttrain.generation.decoder import can_decode
from posttrain.generation.engine import Sampling, generate
from posttrain.generation.llama import is_written_out
from posttrain.generation.sampling import invert, pick, uniforms

VOCABULARY, WINDOW, LENGTH = 97, 6, 24
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}
WRITTEN_OUT: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"num_key_value_heads": 4},
    "qwen3": {"head_dim": 16},
}
BY_FORWARD: dict[str, dict[str, Any]] = {
    "smollm3": {"no_rope_layers": [1, 1, 0, 1]},
    "gemma2": GEMMA | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": GEMMA | {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "mistral": {"sliding_window": WINDOW},
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 32},
    "mixtral": {},
}
OWN: dict[str, dict[str, Any]] = {"mamba": {}, "bloom": {}}
"""Models that remember other things than keys and values, or take no positions."""
DRAWING = torch.Generator().manual_seed(1)
PROMPTS = [torch.randint(3, VOCABULARY, (length,), generator=DRAWING).tolist() for length in (3, 9, 5, 9, 14)]
ENDS = [1, 2]
GREEDY = Sampling(LENGTH, temperature=0)


def tiny(kind: str, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
        | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
        | {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.3}
        | options,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def by_transformers(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """Its greedy completion of one prompt alone."""
    plain = GenerationConfig(do_sample=False, max_new_tokens=LENGTH, eos_token_id=ENDS, pad_token_id=0)
    ids = torch.tensor([prompt])
    written: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain)[0].tolist()
    return written[len(prompt) :]


def seeds(samples: int) -> list[list[int]]:
    return [[100 * number + sample for sample in range(samples)] for number in range(len(PROMPTS))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*WRITTEN_OUT, *BY_FORWARD, *OWN])
def test_greedy_tokens_are_those_of_transformers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(kind, **(WRITTEN_OUT | BY_FORWARD | OWN)[kind])
    assert (is_written_out(model), can_decode(model)) == (kind in WRITTEN_OUT, kind not in OWN)
    wanted = [by_transformers(model, prompt) for prompt in PROMPTS]
    lengths = {len(one) for one in wanted}
    assert max(lengths) > WINDOW
    for samples, rows in ((1, 64), (1, 2), (8, 64), (3, 4)):
        assert generate(model, PROMPTS, GREEDY, ENDS, seeds(samples), rows=rows) == [[one] * samples for one in wanted]
    for module in (cache, llama):
        monkeypatch.setattr(module, "ROOM", 1)  # buffers grow again and again
    assert generate(model, PROMPTS, GREEDY, ENDS, seeds(2), rows=64) == [[one] * 2 for one in wanted]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*WRITTEN_OUT, "gemma3_text", "mamba"])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_sample_is_the_same_in_any_batch(kind: str, top_p: float) -> None:
    model, drawn = tiny(kind, **(WRITTEN_OUT | BY_FORWARD | OWN)[kind]), Sampling(LENGTH, 0.9, top_p)
    alone = generate(model, PROMPTS, drawn, ENDS, seeds(4), rows=1)
    assert len({tuple(one) for group in alone for one in group}) > len(PROMPTS) * 3
    for rows in (3, 7, 64):
        assert generate(model, PROMPTS, drawn, ENDS, seeds(4), rows=rows) == alone
    some = generate(model, [PROMPTS[3], PROMPTS[1]], drawn, ENDS, [[302, 300], [101]], rows=64)
    assert some == [[alone[3][2], alone[3][0]], [alone[1][1]]]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8), (0.7, 0.5)])
@pytest.mark.parametrize("kind", ["llama", "smollm3"])
def test_tokens_are_drawn_from_the_models_distribution(kind: str, temperature: float, top_p: float) -> None:
    """The first token, and the second after the likeliest first one, by a chi-squared test at fixed seeds."""
    model, number = tiny(kind, initializer_range=0.1), 4000
    drawn = generate(model, [PROMPTS[0]], Sampling(2, temperature, top_p), [], [list(range(number))], rows=number)[0]
    firsts = Counter(one[0] for one in drawn)
    check(firsts, exact(model, PROMPTS[0], temperature, top_p))
    [(likeliest, _)] = firsts.most_common(1)
    seconds = Counter(one[1] for one in drawn if one[0] == likeliest)
    check(seconds, exact(model, [*PROMPTS[0], likeliest], temperature, top_p))


@torch.no_grad()
def exact(model: PreTrainedModel, ids: list[int], temperature: float, top_p: float) -> list[float]:
    """Probabilities of the next token, by a formula of its own."""
    logits = (model(torch.tensor([ids])).logits[0, -1].double() / temperature).tolist()
    total = sum(map(math.exp, logits))
    shares = {token: math.exp(logit) / total for token, logit in enumerate(logits)}
    kept, mass = [], 0.0
    for token in sorted(shares, key=lambda token: -shares[token]):
        if mass >= top_p:
            break
        kept.append(token)
        mass += shares[token]
    return [shares[token] / mass if token in kept else 0.0 for token in range(len(logits))]


def check(counts: Counter[int], probabilities: list[float]) -> None:
    total = counts.total()
    assert all(probabilities[token] > 0 for token in counts)
    often = [token for token, share in enumerate(probabilities) if share * total >= 5]
    rare = total - sum(counts[token] for token in often), 1 - sum(probabilities[token] for token in often)
    cells = [(counts[token], probabilities[token]) for token in often] + ([rare] if rare[1] * total >= 5 else [])
    statistic = sum((seen - share * total) ** 2 / (share * total) for seen, share in cells)
    assert len(cells) > 1
    assert statistic < chi2.ppf(0.999, len(cells) - 1)


def test_a_token_without_probability_is_never_drawn() -> None:
    cdf = torch.tensor([[0.0, 0.0, 0.25, 0.25, 1.0, 1.0]]).repeat(4, 1)
    numbers = torch.tensor([[0.0], [0.2499999], [0.25], [1.0]])  # 1.0 is what rounding makes of the highest number
    assert invert(cdf, numbers).tolist() == [2, 2, 4, 4]


@pytest.mark.parametrize("sharpness", [0.0, 0.3, 3.0])
def test_the_nucleus_is_the_same_without_sorting_all(sharpness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat rows, whose nucleus is most of the vocabulary, and steep ones in one batch."""
    torch.manual_seed(0)
    logits = torch.randn(64, 3000) * torch.linspace(sharpness, sharpness + 3, 64)[:, None]
    numbers, drawn = torch.rand(64, 1), Sampling(1, 1.0, 0.95)
    fast = pick(logits, drawn, numbers)
    monkeypatch.setattr(sampling, "LIKELIEST", 3000)
    assert pick(logits, drawn, numbers).tolist() == fast.tolist()


def test_a_seed_has_one_stream_of_numbers_whatever_the_length() -> None:
    assert torch.equal(uniforms([5, 6], 40)[:, :17], uniforms([5, 6], 17))
    assert not torch.equal(*uniforms([5, 6], 8))


def test_completions_end_at_the_first_end_token_or_the_limit() -> None:
    model = tiny("qwen2")
    free = generate(model, PROMPTS, GREEDY, [], seeds(1), rows=64)
    assert {len(one) for (one,) in free} == {LENGTH}
    ends = {free[0][0][3], free[1][0][5]}
    for (whole,), (one,) in zip(free, generate(model, PROMPTS, GREEDY, ends, seeds(1), rows=64), strict=True):
        stop = next((place + 1 for place, token in enumerate(whole) if token in ends), LENGTH)
        assert one == whole[:stop]
    short = generate(model, PROMPTS, Sampling(1, temperature=0), [], seeds(2), rows=64)
    assert short == [[one[:1]] * 2 for (one,) in free]
    assert generate(model, [], GREEDY, ENDS, [], rows=64) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "mamba"])
def test_progress_counts_each_completion_once(kind: str) -> None:
    told: list[int] = []
    generate(tiny(kind), PROMPTS, Sampling(LENGTH, 1.0), ENDS, seeds(3), rows=4, progress=told.append)
    assert sum(told) == 3 * len(PROMPTS)
    assert min(told) >= 0


def test_the_model_is_left_as_it_was_and_drops_nothing_meanwhile() -> None:
    model = tiny("gpt2", resid_pdrop=0.5, **BY_FORWARD["gpt2"])
    wanted = generate(model, PROMPTS, GREEDY, ENDS, seeds(1), rows=64)
    model.train()
    model.generation_config.repetition_penalty = 5.0
    assert generate(model, PROMPTS, GREEDY, ENDS, seeds(1), rows=64) == wanted
    assert model.training
    assert all(part.training for part in model.modules())


@pytest.mark.filterwarnings("ignore")
def test_a_models_own_generation_config_bends_nothing() -> None:
    model = tiny("mamba")
    wanted = generate(model, PROMPTS, GREEDY, ENDS, seeds(1), rows=64)
    model.generation_config.repetition_penalty = 5.0
    assert generate(model, PROMPTS, GREEDY, ENDS, seeds(1), rows=64) == wanted
    assert model.generation_config.repetition_penalty == 5.0


@pytest.mark.parametrize("kind", ["llama", "smollm3"])
def test_adapters_take_part(kind: str) -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(tiny(kind), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    written = generate(adapted, PROMPTS, GREEDY, ENDS, seeds(2), rows=64)
    assert written != generate(tiny(kind), PROMPTS, GREEDY, ENDS, seeds(2), rows=64)
    merged = adapted.merge_and_unload()
    assert written == [[by_transformers(merged, prompt)] * 2 for prompt in PROMPTS]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_half_precision_stays_near_the_models_own(kind: str) -> None:
    """Tokens may differ where two are all but equally likely: those drawn are likely to the model's own forward too."""
    model = tiny(kind, **(WRITTEN_OUT | BY_FORWARD)[kind]).to(torch.bfloat16)
    for prompt, (one,) in zip(PROMPTS, generate(model, PROMPTS, GREEDY, [], seeds(1), rows=64), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *one]])).logits[0, len(prompt) - 1 : -1].float()
        missing = logits.max(-1).values - logits.gather(-1, torch.tensor(one)[:, None])[:, 0]
        assert float(missing.max()) < 0.5 * float(logits.std())


def test_a_model_that_trl_trains_generates_by_the_step_that_is_written_out() -> None:
    model = tiny("llama", **WRITTEN_OUT["llama"])
    wanted = generate(model, PROMPTS, GREEDY, ENDS, seeds(2), rows=64)
    add_fused_lm_head(model, temperature=0.5, outputs=("log_probs", "entropy"))
    assert is_written_out(model)
    assert generate(model, PROMPTS, GREEDY, ENDS, seeds(2), rows=64) == wanted
    model.forward = MethodType(torch.autocast("cpu", torch.bfloat16)(model.forward.__func__), model)
    assert not is_written_out(model)  # what a wrapper does to logits is its own
    for weight in (other := tiny("llama", **WRITTEN_OUT["llama"])).parameters():
        weight.data = weight.data.new_empty(0)
    assert not is_written_out(other)  # partitioned


def test_a_copy_has_the_models_weights_at_each_use() -> None:
    """In its own dtype, but for what is no weight, and by its own forward."""
    model, kept = tiny("llama", tie_word_embeddings=True), Copied(torch.bfloat16)
    forward = model.forward
    model.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    copy = kept.of(model)
    assert {one.dtype for one in copy.parameters()} == {torch.bfloat16}
    assert copy.lm_head.weight is copy.model.embed_tokens.weight
    assert torch.equal(copy.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    assert is_written_out(copy)
    torch.nn.init.normal_(model.model.norm.weight)
    assert kept.of(model) is copy
    for name, weight in model.state_dict().items():
        assert torch.equal(copy.state_dict()[name], weight.bfloat16())
    assert not any(weight.grad_fn or weight.requires_grad for weight in copy.parameters())
