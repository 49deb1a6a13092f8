"""Tiny random models of every family and byte-level tokenizers, built in code."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

_SIZES = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
}
_GEMMA = {"head_dim": 8, "pad_token_id": 0}
_OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 512},
    "gptj": {"n_positions": 512, "rotary_dim": 4},
    "gpt_neox": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    },
    "gemma": _GEMMA,
    "gemma2": _GEMMA | {"query_pre_attn_scalar": 8},
    "gemma3_text": _GEMMA | {"query_pre_attn_scalar": 8},
}
#: The older families call some sizes by other names.
_RENAMED = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}

#: Puts words around a message as templates do; the answer follows without a space.
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}<pad>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def byte_tokenizer(*, bos: bool = False, eos: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte, 257 in all, the first for padding; `bos` puts that one before every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0} | {token: i + 1 for i, token in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<pad> $A", special_tokens=[("<pad>", vocabulary["<pad>"])]
        )
    special = {"bos_token": "<pad>"} if bos else {}
    return _fast(core, **special, **({"eos_token": "<pad>"} if eos else {}))


def _fast(core: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", **special)


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", *tokens]))}


def merging_tokenizer(*, across_words: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE with some merges, GPT-2's way, or with merges over the borders of words too."""
    merges = [
        "Ġ t",
        "h e",
        "Ġt he",
        "i l",
        "il l",
        "m ill",
        "Ġ mill",
        "Ġ R",
        "o m",
        "om e",
        "ĠR ome",
        "R ome",
    ]
    merges += ["Ã «", "Ð °", "æ Ŀ", "æĿ ±", "ä º", "äº ¬", "æĿ± äº¬", "ðŁ ĺ", "ð Ł"]
    if across_words:
        merges += ["mill ,", "Ġmill ,", "( R", "« Ġ", "¬ ã", "Ġ A", "s ĠA", "e ĠA", "y ĠA", ", ĠA"]
    pairs = [tuple(merge.split()) for merge in merges]
    vocabulary = _vocabulary(
        [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(part for pair in pairs for part in pair)]
        + ["".join(pair) for pair in pairs]
    )
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    core.post_processor = processors.ByteLevel(trim_offsets=not across_words)
    core.decoder = decoders.ByteLevel()
    return _fast(core)


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's way, as in Llama 2: spaces are ▁, one is put before the text, BOS before that."""
    merges = [
        ("▁", "t"),
        ("h", "e"),
        ("▁t", "he"),
        ("o", "m"),
        ("om", "e"),
        ("▁", "R"),
        ("▁R", "ome"),
        ("l", "l"),
    ]
    letters = [chr(i) for i in range(33, 127)]
    vocabulary = _vocabulary(
        [*(f"<0x{i:02X}>" for i in range(256)), "▁", *letters, *("".join(pair) for pair in merges)]
    )
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _fast(core, bos_token="<s>", unk_token="<unk>")


def word_piece_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's way: lower case, no accents, words cut into pieces, a token before and one behind the text."""
    letters = [chr(i) for i in range(33, 127) if not chr(i).isupper()]
    vocabulary = _vocabulary([*letters, *(f"##{x}" for x in letters), "the", "mill", "##ll", "rome", "##ome"])
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(t, vocabulary[t]) for t in ("<s>", "</s>")]
    )
    return _fast(core, unk_token="<unk>")


def tiny_model(family: str = "llama", *, vectors: float = 0.0, **changes: Any) -> Any:
    """A random model: hidden 32, FFN 64, 8 layers, unless `changes` says otherwise.

    Args:
        family: its `model_type`.
        vectors: standard deviation of what is added to biases and norm weights, which start as
            zeros and ones.
    """
    settings = _SIZES | _OWN.get(family, {}) | changes
    if family in ("gpt2", "gptj"):
        settings = {_RENAMED.get(name, name): value for name, value in settings.items()}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and vectors:
                parameter.add_(vectors * torch.randn_like(parameter))
    return model.eval()


def save_checkpoint(path: Path, family: str = "llama", **changes: Any) -> Path:
    """Saves a tiny model with its byte tokenizer as a Hugging Face directory."""
    tiny_model(family, **changes).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path
