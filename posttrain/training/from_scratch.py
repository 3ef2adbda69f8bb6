"""`model.name_or_path: scratch`: a small Qwen2 with random weights and a tokenizer trained on the prepared text."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from posttrain.params.schema import ScratchModel
from posttrain.prompts import CHAT_TEMPLATE, TAGS, TURN_CLOSE, TURN_OPEN

if TYPE_CHECKING:  # the preflight makes the tokenizer without torch
    from transformers import Qwen2ForCausalLM


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Qwen2's byte-level BPE, in which every digit is a token of its own, with merges learnt from `texts`.

    Of Qwen2's own class, because that is what AutoTokenizer makes of a Qwen2 checkpoint whatever was saved.

    The tags are added tokens but not *special* ones: TRL decodes completions without special tokens, so special tags
    would vanish before any reward saw them.
    """
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        texts, vocab_size - len(TAGS), new_special_tokens=[TURN_OPEN, TURN_CLOSE], show_progress=False
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.eos_token = TURN_CLOSE
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def random_model(params: ScratchModel, tokenizer: PreTrainedTokenizerBase) -> "Qwen2ForCausalLM":
    """A Qwen2 with tied embeddings, drawn from torch's global generator."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        **params.model_dump(exclude={"vocab_size"}),
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)
