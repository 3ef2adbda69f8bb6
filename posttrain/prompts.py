"""The only file that knows the format: tags, chat messages and the template of models made from scratch.

Standard library only. Prompts reach a model through its tokenizer's chat template, in training and in evaluation alike.
"""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

TURN_OPEN, TURN_CLOSE = "<|im_start|>", "<|im_end|>"

# ChatML. `generation` marks what the assistant says, which transformers uses to mask a loss.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Message = dict[str, str]


def prompt_messages(problem: str, system: str | None) -> list[Message]:
    """The conversation up to the point where the model answers."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return [*messages, {"role": "user", "content": problem}]


def completion_text(thoughts: str, answer: str) -> str:
    """Thoughts and answer in the form that every reward, evaluation and reader expects."""
    return f"{THINK_OPEN}\n{thoughts}\n{THINK_CLOSE}\n{ANSWER_OPEN}\n{answer}\n{ANSWER_CLOSE}"
