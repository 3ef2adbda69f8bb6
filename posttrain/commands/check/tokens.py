"""Rules on tokenizers: tags come through decoding, and all files agree on where a turn ends."""

from collections.abc import Mapping
from typing import Any

from posttrain.commands.check.rules import Finding
from posttrain.prompts import TAGS, completion_text, prompt_messages
from posttrain.templates import EXAMPLES, closes_thoughts, opened, render


def tags(tokenizer: Any, where: str, name: str = "tags") -> Finding:
    """Do the tags come through TRL's decoding, and are their ends ends of tokens?"""
    text = completion_text("3x = 15", "x = 5")
    decoded = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    lost = [tag for tag in TAGS if tag not in decoded]
    if lost:
        why = "TRL decodes completions without special tokens, so no reward would ever see them."
        do = "Add them with `special=False`, or as plain text."
        return Finding("fault", name, where, f"{', '.join(lost)} vanish when decoded", why, do)
    odd = straddling(tokenizer, text)
    if odd:
        saw = ", ".join(f"{token!r} across an end of {tag}" for tag, token in odd[:4])
        why = "The tag is spelt otherwise beside other text, so the model learns several spellings of it."
        return Finding("warn", name, where, saw, why, "Harmless after enough SFT; added tokens avoid it.")
    count = len(tokenizer(TAGS[0], add_special_tokens=False)["input_ids"])
    return Finding("ok", name, where, f"kept by decoding; {TAGS[0]} is {count} token{'s'[: count != 1]}")


def template(tokenizer: Any, where: str, system: str | None) -> Finding:
    """What does the chat template begin in the model's place?"""
    problem = EXAMPLES[0][0]
    prompt = render(tokenizer, prompt_messages(problem, system))
    if closes_thoughts(prompt, problem):
        why = "The traces' thoughts come after them, where this model is used to answer."
        do = "Switch thinking on in the template, or leave /no_think out of prompts.system."
        return Finding("warn", "chat template", where, "closes empty thoughts before the model writes", why, do)
    begun = opened(prompt, problem)
    saw = f"opens {begun!r}, which completions get back" if begun else "leaves the whole trace to the model"
    return Finding("ok", "chat template", where, saw)


def straddling(tokenizer: Any, text: str) -> list[tuple[str, str]]:
    """(tag, token) for each token that holds an end of a tag and something beyond it."""
    if not tokenizer.is_fast:  # a slow tokenizer does not say where its tokens are
        return []
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        (tag, text[start:end])
        for tag in TAGS
        for first in [text.index(tag)]
        for start, end in spans
        if any(start < edge < end for edge in (first, first + len(tag)))
    ]


def end_of_turn(tokenizer: Any, config: Mapping[str, Any], generation: Mapping[str, Any], where: str) -> Finding:
    """Do tokenizer, config and generation config agree on where a turn ends and what fills a batch up?"""
    name, eos = "end of turn", tokenizer.eos_token_id
    ends = {"config.json": config.get("eos_token_id"), "generation_config.json": generation.get("eos_token_id", eos)}
    other = [
        f"{file} {value}" for file, value in ends.items() if eos not in (value if isinstance(value, list) else [value])
    ]
    if other:
        saw = f"the tokenizer ends a turn with {eos} ({tokenizer.eos_token}), {', '.join(other)}"
        why = "Generation would run on to the limit, or stop early."
        return Finding(
            "fault", name, where, saw, why, "Make eos_token_id the same in all three, as `posttrain sft` does."
        )
    pads = {config.get("pad_token_id"), generation.get("pad_token_id", config.get("pad_token_id"))}
    if pads != {tokenizer.pad_token_id}:
        saw = f"the tokenizer pads with {tokenizer.pad_token_id}, the configs with {', '.join(map(str, pads))}"
        why = "Padding that one takes for text ends up in the loss."
        return Finding("fault", name, where, saw, why, "Make pad_token_id the same, as `posttrain sft` does.")
    return Finding("ok", name, where, f"{tokenizer.eos_token} everywhere, padding {tokenizer.pad_token}")
