"""Whether vLLM draws completions from the distribution that the trainer knows.

TRL weighs each completion by trainer's over sampler's probability of its tokens. The sampler's is that after top_p,
top_k and the like, the trainer's that of the whole softmax: their ratio is the kept mass S of each token, and S to the
power of the length for a completion (trl#6789). The temperature is in both.
"""

from collections.abc import Mapping
from typing import Any

from posttrain.commands.check.rules import Finding
from posttrain.commands.check.workspace import Workspace
from posttrain.params.schema import GRPO

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "repetition_penalty": (1.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "min_tokens": (0,),
    "logit_bias": (),
    "allowed_token_ids": (),
    "bad_words": (),
    "structured_outputs": (),
    "vllm_structured_outputs_regex": (),
}
"""What vLLM can do to the probabilities of the next token, and the values with which it does nothing; so does null."""

CORRECTION, MODE = "vllm_importance_sampling_correction", "vllm_importance_sampling_mode"


def reshaped(grpo: GRPO) -> dict[str, Any]:
    """The options under which vLLM draws otherwise than the trainer's softmax at `grpo.temperature` says."""
    extra = grpo.trl.get("generation_kwargs") or {}
    asked = {"top_p": grpo.top_p, **grpo.trl, **extra}
    found = {name: asked[name] for name, neutral in NEUTRAL.items() if asked.get(name) not in (None, *neutral)}
    if extra.get("temperature", grpo.temperature) != grpo.temperature:
        found["temperature"] = extra["temperature"]
    return found


def sampler(grpo: GRPO) -> Finding:
    """Does the importance ratio mend what vLLM and the trainer differ by, or is it what harms?"""
    name, where = "one distribution", "grpo.use_vllm"
    options = reshaped(grpo)
    corrected = bool(grpo.trl.get(CORRECTION, True))
    mode = str(grpo.trl.get(MODE, "sequence_mask")) if corrected else "no correction"
    saw = f"{', '.join(f'{key} {value}' for key, value in options.items()) or 'the whole distribution'}, {mode}"
    if not corrected:
        why = "Nothing corrects for what vLLM and the trainer differ by, and no column of the curve shows it."
        return Finding("warn", name, where, saw, why, f"Leave grpo.trl.{CORRECTION} out.")
    if not options:
        return Finding("ok", name, where, saw)
    whole = f"Draw from the whole distribution: leave out {', '.join(options)}; grpo.temperature may narrow it"
    if mode.startswith("token") and grpo.loss_type != "vespo":
        why = "Each token counts by the mass that was kept for it, so least where the policy is undecided."
        return Finding("warn", name, where, saw, why, f"{whole}.")
    why = (
        "TRL weighs a completion by the product of the mass that the sampler kept at each of its tokens: 0.97 at each "
        "of 256 makes 0.0004, and nothing is learnt."
    )
    others = f"Or set grpo.trl: {{{CORRECTION}: false}}, which trains as without vLLM, or use_vllm: false."
    return Finding("fault", name, where, saw, why, f"{whole}. {others}")


def check_sampler(work: Workspace) -> list[Finding]:
    return [sampler(work.params.grpo)] if work.params.grpo.use_vllm else []
