"""Chat templates that do what well-known ones do: what is trained, what a learnt completion earns, what is refused."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import transformers.utils.chat_template_utils as clock
import trl

from posttrain import templates
from posttrain.errors import InputError
from posttrain.evaluation.subjects import Subject
from posttrain.params.file import load_params
from posttrain.params.schema import Params
from posttrain.processes.bounded import Unbounded, bounded
from posttrain.prompts import CHAT_TEMPLATE, completion_text, prompt_messages
from posttrain.rewards.completion import Completion
from posttrain.rewards.form import code_format, format, reasoning_steps, tag_count
from posttrain.sft.dataset import to_dataset
from posttrain.templates import closes_thoughts, opened, pin_date, render, require_turn
from posttrain.training.pretrained import load_tokenizer
from tests.templates import TEMPLATES, Template, save, tokenizer_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/templates.md"
PROBLEM = "Solve: 3x - 5 = 10"
TRACE = completion_text("1. Add 5: 3x = 15\n2. Divide by 3\n3. Check", "x = 5")
CODE = completion_text("1. Read\n2. Add\n3. Print", "```python\nprint(5)\n```")
ROWS = [{"id": "a", "problem": PROBLEM, "completion": TRACE}, {"id": "b", "problem": "Print 5", "completion": CODE}]
TEXTS = [row["problem"] + "\n" + row["completion"] for row in ROWS]


def params_for(folder: Path, system: str | None) -> Params:
    params = load_params(ROOT / "params.yaml")
    prompts = params.prompts.model_copy(update={"system": system})
    model = params.model.model_copy(update={"name_or_path": str(folder)})
    sft = params.require_sft().model_copy(update={"max_length": 400})
    return params.model_copy(update={"prompts": prompts, "model": model, "sft": sft})


class Seen:
    """What the loss sees of a template's first and second row, and the completions that a perfect model gives."""

    def __init__(self, template: Template, folder: Path) -> None:
        save(template, TEXTS, folder)
        (folder / "config.json").write_text("{}")
        params = params_for(folder, template.system)
        self.tokenizer = load_tokenizer(str(folder), params.model, template.system)
        self.dataset, lengths = to_dataset(ROWS, self.tokenizer, params, folder)
        assert lengths.too_long == 0
        self.asked = [prompt_messages(row["problem"], template.system) for row in ROWS]
        self.prompts = [render(self.tokenizer, messages) for messages in self.asked]
        self.opened = [opened(text, row["problem"]) for text, row in zip(self.prompts, ROWS, strict=True)]

    def ids(self, row: int, mask: int) -> list[int]:
        example = self.dataset[row]
        return [i for i, label in zip(example["input_ids"], example["labels"], strict=True) if (label == i) == mask]

    def trained(self, row: int) -> str:
        return str(self.tokenizer.decode(self.ids(row, 1)))

    def completion(self, row: int) -> Completion:
        """As every reader of completions makes it: generation ends with the end token, which decoding leaves out."""
        ids = self.ids(row, 1)
        written = ids[: ids.index(self.tokenizer.eos_token_id) + 1]
        return Completion(self.opened[row] + self.tokenizer.decode(written, skip_special_tokens=True))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    return {name: Seen(template, tmp_path_factory.mktemp("template") / "model") for name, template in TEMPLATES.items()}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_whole_trace_is_trained_and_earns_every_form_reward(seen: dict[str, Seen], name: str) -> None:
    found, end = seen[name], TEMPLATES[name].eos
    for row, trace in enumerate((TRACE, CODE)):
        whole = found.opened[row] + found.trained(row)
        said, _, after = whole.partition(end)
        assert (said.strip(), after.strip()) == (trace, "")
        assert whole.count(end) == 1
    math, code = found.completion(0), found.completion(1)
    assert math.text.strip() == TRACE
    assert (format(math), tag_count(math), reasoning_steps(math, steps=3)) == (1.0, 1.0, 1.0)
    assert code_format(code, language="python") == 1.0


@pytest.mark.parametrize("name", TEMPLATES)
def test_training_has_the_prompt_that_generation_has(seen: dict[str, Seen], name: str) -> None:
    found = seen[name]
    for row, messages in enumerate(found.asked):
        generated = found.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert found.ids(row, 0) == generated
        assert found.prompts[row].count(ROWS[row]["problem"]) == 1
        if bos := TEMPLATES[name].bos:
            assert generated.count(found.tokenizer.convert_tokens_to_ids(bos)) == 1
        for system in ("You are helpful.", "You are SmolLM.", "Think first."):
            assert found.prompts[row].count(system) <= 1


def test_what_each_template_opens(seen: dict[str, Seen]) -> None:
    begun = {name: found.opened[0] for name, found in seen.items() if found.opened[0]}
    assert begun == {"DeepSeek-R1-Distill": "<think>\n", "Qwen3-Thinking-2507": "<think>\n"}
    closed = [name for name, found in seen.items() if closes_thoughts(found.prompts[0], PROBLEM)]
    assert closed == ["Qwen3, thinking off", "SmolLM3, /no_think"]


def test_white_space_before_a_reply_is_the_templates(seen: dict[str, Seen]) -> None:
    spaced = [
        name
        for name, template in TEMPLATES.items()
        if require_turn(seen[name].tokenizer, name, template.system).lead == " "
    ]
    assert spaced == ["Llama-2", "Mistral"]


def test_rendered_replies_would_lose_thoughts(seen: dict[str, Seen]) -> None:
    """The fixtures do what they are for."""
    lost = []
    for name, found in seen.items():
        reply = render(found.tokenizer, [*found.asked[0], {"role": "assistant", "content": TRACE}], reply=False)
        lost += [name] * ("Divide by 3" not in reply)
    assert lost == ["DeepSeek-R1-Distill", "SmolLM3, /no_think"]


# ---------------------------------------------------------------------------------------------------------------------
# What a prompt opens


@pytest.mark.parametrize(
    ("prompt", "begun"),
    [
        ("<user>PROBLEM<bot>", ""),
        ("<user>PROBLEM<bot><think>", "<think>"),
        ("<user>PROBLEM<bot><think>\n", "<think>\n"),
        ("<user>PROBLEM<bot><think>\n\n</think>\n\n", ""),
        ("Write <think> first. <user>PROBLEM<bot>", ""),  # words of the system prompt are nothing opened
        ("<user>PROBLEM<bot><think>\nOkay, ", "<think>\nOkay, "),
        ("<user>Say <think>.<bot>", ""),
    ],
)
def test_opened(prompt: str, begun: str) -> None:
    problem = "Say <think>." if "Say" in prompt else " PROBLEM\n"  # templates trim
    assert opened(prompt, problem) == begun


@pytest.mark.parametrize("start", ["<think>", "<think>\n", "<think>\n\n", "<think>\nOkay, "])
def test_the_trace_goes_on_where_the_prompt_ends(start: str, tmp_path: Path) -> None:
    reply = start.replace("\n", "\\n")
    text = TEMPLATES["Qwen3-Instruct-2507"].text.replace(
        "assistant\n' }}{% endif", f"assistant\n{reply}' }}}}{{% endif"
    )
    found = Seen(Template(text, "<|im_end|>", marks=("<|im_start|>",)), tmp_path / "model")
    assert found.opened[0] == start
    assert found.trained(0) == TRACE.removeprefix("<think>" if start == "<think>" else "<think>\n") + "<|im_end|>\n"
    assert format(found.completion(0)) == 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Dates


@pytest.mark.parametrize("name", ["Llama-3.2", "SmolLM3"])
def test_the_date_is_the_same_on_any_day(
    name: str, seen: dict[str, Seen], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Later(clock.datetime):  # type: ignore[misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2031, 1, 2)

    monkeypatch.setattr(clock, "datetime", Later)
    asked = prompt_messages(PROBLEM, None)
    assert "2031" in render(tokenizer_of(TEMPLATES[name], TEXTS), asked)
    tokenizer = seen[name].tokenizer
    assert ("26 Jul 2024" if name == "Llama-3.2" else "26 July 2024") in render(tokenizer, asked)
    tokenizer.save_pretrained(tmp_path)  # what is published needs no posttrain to be the same
    assert render(type(tokenizer).from_pretrained(tmp_path), asked) == render(tokenizer, asked)


# ---------------------------------------------------------------------------------------------------------------------
# Templates that cannot be used


def refusal(text: str, system: str | None = None, eos: str = "<|im_end|>") -> InputError:
    tokenizer = tokenizer_of(Template(text, eos, marks=("<|im_start|>",)), TEXTS)
    pin_date(tokenizer)
    with pytest.raises(InputError) as caught:
        require_turn(tokenizer, "models/base/x", system)
    assert caught.value.exit_code == 2
    return caught.value


GOOD = TEMPLATES["Qwen3-Instruct-2507"].text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD + "{% if %}", "fails: Expected an expression"),
        (GOOD + "{{ messages[7].content.strip() }}", "fails: list object has no element 7"),
        (GOOD + "{{ 1 / 0 }}", "fails: division by zero"),
        (GOOD + "{{ raise_exception('no') }}", "fails: no"),
        (GOOD.replace("{{ m.content }}", "{{ m.content | upper }}"), "renders a problem as"),
        (GOOD.replace("{{ m.content }}", ""), "renders a problem as"),
        (GOOD.replace("{% if m.role == 'assistant' %}{{ m.content }}", "{% if m.role == 'assistant' %}"), "leaves out"),
        (GOOD.replace("{{ '<|im_end|>\n' }}", "{{ '\n' }}"), "ends the assistant's turn with '\\\\n'"),
        (GOOD.replace("{{ '<|im_end|>\n' }}", "{{ ' (end)<|im_end|>\n' }}"), r"ends the assistant's turn with ' \(end"),
        (GOOD + "{{ range(10 ** 5) | random }}", "differently at another time"),
        (GOOD + "{% set f = '%Y' %}{{ strftime_now(f) }}", "differently at another time"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_the_reason(text: str, why: str) -> None:
    assert re.search(why, refusal(text).got), refusal(text).got


EVERY_PAIR = "{% for a in messages[-1].content %}{% for b in messages[-1].content %}{% endfor %}{% endfor %}"
DOUBLED = "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
HOSTILE = {
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "takes more than 0.5 s of CPU",
    "{{ 10 ** 99999999 }}": "takes more than 0.5 s of CPU",  # computed when it is compiled
    EVERY_PAIR: "takes more than 0.5 s of CPU",
    "{{ 'a' * 9999999999 }}": "MiB of memory",
    "{{ 'a' | center(10 ** 9) }}": "MiB of memory",
    "{% if messages[0].role != 'system' %}{{ ['a'] * 10 ** 9 }}{% endif %}": "MiB of memory",
    "{{ '{:>999999999}'.format(1) }}": "MiB of memory",
    DOUBLED: "MiB of memory",
    "{{ 'a' * 1000000 }}": "adds 10000.. characters",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "recursion",
    "{% for a in range(10 ** 9) %}{% endfor %}": "Range too big",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_template_that_computes_or_writes_without_end_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A slow machine needs as much CPU to fill the memory, so the other rows are granted plenty of it.
    monkeypatch.setattr(templates, "CPU_S", 0.5 if "CPU" in HOSTILE[text] else 30.0)
    assert re.search(HOSTILE[text], refusal(text + GOOD, system="Think first.").got)


def test_a_model_that_is_evaluated_has_its_template_tried_first(tmp_path: Path) -> None:
    save(Template("{{ 'a' * 9999999999 }}" + GOOD, "<|im_end|>"), TEXTS, tmp_path)
    with pytest.raises(InputError, match="MiB of memory"):
        _ = Subject("own", tmp_path, None).tokenizer


def test_what_a_bounded_call_does_happens_elsewhere() -> None:
    there: list[int] = []
    assert bounded(lambda: there.append(1) or [os.getpid()], 1.0) != [os.getpid()]
    assert there == []
    assert bounded(lambda: [1 // 0], 1.0) is None
    with pytest.raises(Unbounded, match="ends the process"):
        bounded(lambda: os._exit(0), 1.0)


def test_a_system_prompt_that_a_template_refuses_or_drops_is_named() -> None:
    refused = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    for text, why in (
        (refused + GOOD, "not supported"),
        (GOOD.replace("in messages", "in messages[-1:]"), "leaves it"),
    ):
        error = refusal(text, system="Think first.")
        assert error.where == "params.yaml: prompts.system"
        assert why in error.got
        assert "null" in error.do


def test_an_end_token_of_another_kind_is_refused_and_named() -> None:
    """Gemma's and Phi-3's, as their tokenizers have it: `eos_token` does not end a turn."""
    gemma = TEMPLATES["Gemma-3"]
    error = refusal(gemma.text, eos="<eos>")
    assert "'<end_of_turn>\\n'" in error.got
    assert "eos_token" in error.do
    assert "'<|end|>\\n<|endoftext|>'" in refusal(TEMPLATES["Phi-3"].text, eos="<|endoftext|>").got


def test_no_end_token_is_said_in_words() -> None:
    tokenizer = tokenizer_of(TEMPLATES["Qwen2.5"], TEXTS)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-sequence token"):
        require_turn(tokenizer, "models/base/x", None)


def test_traces_of_the_data_are_tried() -> None:
    """A template that ends turns with a code fence otherwise: only a trace with one shows it."""
    text = GOOD.replace("{{ '<|im_end|>\n' }}", "{{ '' if '```' in m.content else '<|im_end|>' }}{{ '\n' }}")
    tokenizer = tokenizer_of(Template(text, "<|im_end|>", marks=("<|im_start|>",)), TEXTS)
    require_turn(tokenizer, "models/base/x", None)
    with pytest.raises(InputError, match="ends the assistant's turn"):
        require_turn(tokenizer, "models/base/x", None, [(row["problem"], row["completion"]) for row in ROWS])


def test_the_template_of_models_from_scratch_opens_nothing() -> None:
    tokenizer = tokenizer_of(Template(CHAT_TEMPLATE, "<|im_end|>", marks=("<|im_start|>",)), TEXTS)
    turn = require_turn(tokenizer, "scratch", None)
    assert (turn.lead, turn.end) == ("", "<|im_end|>\n")


# ---------------------------------------------------------------------------------------------------------------------
# The table


def table(seen: dict[str, Seen]) -> str:
    """Markdown: of each template the end of the prompt, what is trained, and what the learnt completion earns."""
    lines = [
        "| template | the prompt ends with | trained after it | format | tag_count | reasoning_steps |",
        "|---" * 6 + "|",
    ]
    for name, found in seen.items():
        completion = found.completion(0)
        scores = (format(completion), tag_count(completion), reasoning_steps(completion, steps=3))
        end, trained = (
            found.prompts[0].rpartition(PROBLEM)[2],
            found.trained(0).replace(TRACE[8 : -len("\n</answer>")], "…"),
        )
        cells = [
            name,
            *(f"`{text!r}`".replace("|", "\\|") for text in (end, trained)),
            *(f"{score:g}" for score in scores),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_page_has_the_table(seen: dict[str, Seen]) -> None:
    assert table(seen) in PAGE.read_text(encoding="utf-8"), table(seen)


# ---------------------------------------------------------------------------------------------------------------------
# The templates of well-known models that TRL brings along, as they are


ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|end|>", "</s>"),
    *("<|END_OF_TURN_TOKEN|>", "<|eot|>", "<|user|>"),
)
"""Tokens that end a turn; the first of them that a template writes is its."""
REFUSED = {
    "cohere2": "ends the assistant's turn with '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>'",
    "glm4moe": "ends the assistant's turn with ''",
    **dict.fromkeys(
        ("idefics3", "llava_next", "smolvlm"), "renders a problem as"
    ),  # a list of text and images is wanted
}
REAL = {path.stem: path for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))}


def real(name: str) -> Template:
    text = REAL[name].read_text(encoding="utf-8")
    end = next(end for end in (*ENDS, "<eos>") if end in text or end == "<eos>")
    return Template(text, eos=end, bos="<bos>" if "bos_token" in text else None, system=None)


def test_trl_brings_the_templates_of_the_models_that_people_use() -> None:
    assert {
        "deepseek_r1_distill",
        "llama3_2",
        "qwen2_5",
        "qwen3",
        "qwen3_instruct_2507",
        "gemma3",
        "phi3",
    } <= REAL.keys()
    assert REFUSED.keys() <= REAL.keys()


@pytest.mark.parametrize("name", [name for name in REAL if name.removesuffix("_training") not in REFUSED])
def test_a_real_template_trains_the_whole_trace(name: str, tmp_path: Path) -> None:
    found = Seen(real(name), tmp_path / "model")
    completion = found.completion(0)
    assert completion.text.strip() == TRACE
    assert (format(completion), tag_count(completion)) == (1.0, 1.0)
    assert (
        found.ids(0, 0) == found.tokenizer.apply_chat_template(found.asked[0], add_generation_prompt=True)["input_ids"]
    )


@pytest.mark.parametrize("name", REFUSED)
def test_a_real_template_that_cannot_be_used_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Seen(real(name), tmp_path / "model")
    assert REFUSED[name] in caught.value.got
