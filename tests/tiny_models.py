"""Tokenizers of every kind, built in code; tiny models are those of `factd bench families`."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from benchmarks.families.tiny import byte_tokenizer, fast, save_checkpoint, tiny_model

__all__ = [
    "CHAT_TEMPLATE",
    "byte_tokenizer",
    "merging_tokenizer",
    "metaspace_tokenizer",
    "save_checkpoint",
    "tiny_model",
    "word_piece_tokenizer",
]

#: Puts words around a message as templates do; the answer follows without a space.
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}<pad>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


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
    return fast(core)


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
    return fast(core, bos_token="<s>", unk_token="<unk>")


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
    return fast(core, unk_token="<unk>")
