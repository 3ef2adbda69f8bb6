"""`model.name_or_path: scratch`: a small Qwen2 with random weights and a tokenizer trained on the prepared text."""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from stages.params import ScratchModel
from stages.prompts import CHAT_TEMPLATE, PAD_TOKEN, TAGS, TURN_CLOSE, TURN_OPEN


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit, sign and line end is a token of its own.

    The tags are added tokens but not *special* ones: TRL decodes completions without special tokens, so special tags
    would vanish before any reward saw them.
    """
    split = pre_tokenizers.Split(Regex(r"\d|[^\s\w]|\n"), "isolated")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=[PAD_TOKEN, TURN_OPEN, TURN_CLOSE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD_TOKEN, eos_token=TURN_CLOSE)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def random_model(params: ScratchModel, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """A Qwen2 with tied embeddings, drawn from torch's global generator."""
    config = Qwen2Config(
        **params.model_dump(exclude={"vocab_size"}),
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)
