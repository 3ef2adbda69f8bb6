"""Chat templates of our own that do to a conversation what well-known ones do, and tokenizers that go with them.

Their text is not that of the originals; roles, marks, white space and what happens to thoughts and system prompts are.
"""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from posttrain.prompts import TAGS
from posttrain.training.from_scratch import train_tokenizer


@dataclass(frozen=True)
class Template:
    text: str
    eos: str
    bos: str | None = None
    marks: tuple[str, ...] = ()
    """Further special tokens."""
    metaspace: bool = False
    """A tokenizer in SentencePiece's manner, which marks where a text begins."""
    system: str | None = "Think first."
    """The system prompt with which it is tried; null where it takes none."""


def chatml(before: str = "", content: str = "m.content", reply: str = "") -> str:
    """ChatML with something before the conversation, the content of an assistant's turn, and a prefilled reply."""
    return (
        before + "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{{ " + content + " }}{% else %}{{ m.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n" + reply + "' }}{% endif %}"
    )


def default_system(text: str) -> str:
    return "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\n" + text + "<|im_end|>\n' }}{% endif %}"


LATER = "m.content.split('</think>')[-1].lstrip('\n')"
"""What is left of a reply without its thoughts."""
AGAIN = (
    "('<think>\n' + m.content.split('</think>')[0].split('<think>')[-1].strip('\n') + '\n</think>\n\n' + "
    + LATER
    + " if loop.last and '</think>' in m.content else "
    + LATER
    + ")"
)
"""A reply written anew: thoughts of the last one only, and always an empty line after them."""
EMPTY = "<think>\\n\\n</think>\\n\\n"
CHATML = {"eos": "<|im_end|>", "marks": ("<|im_start|>", "<|endoftext|>")}

R1_DISTILL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}{% endif %}"
    "{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% endif %}"
    "{% if m.role == 'assistant' %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)

LLAMA_3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = DATE %}{% endif %}"
    "{% set own = messages[0].content if messages[0].role == 'system' else '' %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' + own + '<|eot_id|>' }}"
    "{% for m in messages if m.role != 'system' %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_MARKS = ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>")

LLAMA_2 = (
    "{% for m in messages if m.role != 'system' %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and messages[0].role == 'system' %}{{ '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' }}"
    "{% endif %}{{ m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)

MISTRAL = (
    "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}{{ bos_token }}"
    "{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' }}"
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# The system prompt stands in the last user turn; with a reply after it, that turn is no longer the last.

GEMMA = (
    "{{ bos_token }}SYSTEM{% for m in messages if m.role != 'system' %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}FIRST"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
SYSTEM_FIRST = "{% if loop.first and messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
GEMMA_MARKS = ("<start_of_turn>", "<eos>")

SMOLLM_3 = (
    "{% set own = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set mode = '/no_think' if '/no_think' in own else '/think' %}"
    "{{ '<|im_start|>system\nToday: ' + strftime_now('%d %B %Y') + '\nMode: ' + mode + '\n' }}"
    "{{ own.replace('/no_think', '').replace('/think', '').rstrip() + '<|im_end|>\n' }}"
    "{% for m in messages if m.role != 'system' %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ (m.content.lstrip('\n') if mode == '/think' else '" + EMPTY.replace("\\n\\n'", "") + "' + " + LATER + ") "
    "if m.role == 'assistant' else m.content }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if mode == '/no_think' %}{{ '" + EMPTY + "' }}{% endif %}{% endif %}"
)

PHI_3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI_4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)

TEMPLATES = {
    "DeepSeek-R1-Distill": Template(R1_DISTILL, "<|eos|>", "<|bos|>", ("<|User|>", "<|Assistant|>")),
    "Qwen3": Template(chatml(content=AGAIN), **CHATML),
    "Qwen3, thinking off": Template(chatml(content=AGAIN, reply=EMPTY), **CHATML),
    "Qwen3-Thinking-2507": Template(chatml(content=AGAIN, reply="<think>\\n"), **CHATML),
    "Qwen3-Instruct-2507": Template(chatml(), **CHATML),
    "Qwen2.5": Template(chatml(before=default_system("You are helpful.")), **CHATML),
    "Llama-3.1": Template(LLAMA_3.replace("DATE", "'26 Jul 2024'"), "<|eot_id|>", "<|bos|>", LLAMA_3_MARKS),
    "Llama-3.2": Template(LLAMA_3.replace("DATE", 'strftime_now("%d %b %Y")'), "<|eot_id|>", "<|bos|>", LLAMA_3_MARKS),
    "Llama-2": Template(LLAMA_2, "</s>", "<s>", metaspace=True),
    "Gemma-2": Template(
        GEMMA.replace("SYSTEM", NO_SYSTEM).replace("FIRST", ""),
        "<end_of_turn>",
        "<bos>",
        GEMMA_MARKS,
        metaspace=True,
        system=None,
    ),
    "Gemma-3": Template(
        GEMMA.replace("SYSTEM", "").replace("FIRST", SYSTEM_FIRST),
        "<end_of_turn>",
        "<bos>",
        GEMMA_MARKS,
        metaspace=True,
    ),
    "SmolLM2": Template(chatml(before=default_system("You are SmolLM.")), **CHATML),
    "SmolLM3": Template(SMOLLM_3, **CHATML),
    "SmolLM3, /no_think": Template(SMOLLM_3, **CHATML, system="/no_think"),
    "Phi-3": Template(PHI_3, "<|end|>", None, ("<|user|>", "<|system|>", "<|assistant|>", "<|endoftext|>")),
    "Phi-4": Template(PHI_4, "<|im_end|>", None, ("<|im_start|>", "<|im_sep|>", "<|endoftext|>")),
    "Mistral": Template(MISTRAL, "</s>", "<s>", ("[INST]", "[/INST]"), metaspace=True),
}


def tokenizer_of(template: Template, texts: list[str]) -> PreTrainedTokenizerBase:
    """A tokenizer learnt from the texts, with the template's special tokens and the tags as plain ones."""
    tokenizer = metaspace_tokenizer(texts) if template.metaspace else train_tokenizer(texts, 384)
    tokenizer.add_special_tokens(
        {"eos_token": template.eos, "extra_special_tokens": list(template.marks)}
        | ({"bos_token": template.bos} if template.bos else {})
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.chat_template = template.text
    return tokenizer


def metaspace_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    core = Tokenizer(BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted({letter for text in texts for letter in text} | set(map(chr, range(32, 127))) | {"\n"})
    core.train_from_iterator(
        texts, BpeTrainer(vocab_size=384, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<unk>")


def save(template: Template, texts: list[str], folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer, and in a folder too, as a checkpoint has it."""
    tokenizer = tokenizer_of(template, texts)
    tokenizer.save_pretrained(folder)
    return tokenizer
