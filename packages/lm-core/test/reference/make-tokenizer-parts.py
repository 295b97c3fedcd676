"""Writes tokenizer-parts.json next to itself, with the Python library `tokenizers` 0.23.2.

One WordPiece vocabulary of single characters serves all parts: the ids show where words begin.
"""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

rnd = random.Random(1)
PIECES = (
    "word words a cat café naïve 12 ½ 3² ٣ 's n't - — … ! ? _ $ 日本 漢 𠀀 😀 é ΣΟΣ İ ß <x> <y> </s> · ´ ▁ ▁▁".split()
    + [" ", "  ", "\n", "\t", "\u0085", "\ufeff", "\u00a0", "\u3000", "e\u0301", "\u200d", "\x00", "\x07", "\u200b"]
)
BYTES = [f"<0x{byte:02X}>" for byte in (0xEF, 0xBB, 0xBF, 0xC3, 0xA9, 0x41)]
chars = sorted(set("".join(PIECES)) | set("abcdefghijklmnopqrstuvwxyz▁ĠĊÃ©ïσοςi̇"))
names = ["<unk>", "</s>", *BYTES, *chars, *(f"##{char}" for char in chars)]
vocab = {name: i for i, name in enumerate(names)}


def text():
    return "".join(rnd.choice(PIECES) for _ in range(rnd.randint(1, 8)))


behaviors = ["removed", "isolated", "contiguous", "merged_with_previous", "merged_with_next"]
pre = {
    "Whitespace": pre_tokenizers.Whitespace(),
    "WhitespaceSplit": pre_tokenizers.WhitespaceSplit(),
    "BertPreTokenizer": pre_tokenizers.BertPreTokenizer(),
    "ByteLevel": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "ByteLevel with a space": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "Metaspace": pre_tokenizers.Metaspace(),
    "Metaspace, first": pre_tokenizers.Metaspace(prepend_scheme="first"),
    "Metaspace, never, whole": pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
    "Digits": pre_tokenizers.Digits(),
    "Digits and Punctuation": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.Punctuation()]),
    "FixedLength": pre_tokenizers.FixedLength(3),
}
for behavior in behaviors:
    pre[f"Punctuation, {behavior}"] = pre_tokenizers.Punctuation(behavior)
    pre[f"Split, {behavior}"] = pre_tokenizers.Split(Regex(r"[\s\-]"), behavior)
    pre[f"Split inverted, {behavior}"] = pre_tokenizers.Split(Regex(r"\w+"), behavior, invert=True)
norms = {
    "Lowercase": normalizers.Lowercase(),
    "Strip": normalizers.Strip(),
    "Strip left": normalizers.Strip(left=True, right=False),
    "BertNormalizer": normalizers.BertNormalizer(),
    "BertNormalizer, cased": normalizers.BertNormalizer(lowercase=False),
    "BertNormalizer with accents": normalizers.BertNormalizer(strip_accents=False),
    "StripAccents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "NFKC": normalizers.NFKC(),
    "Replace": normalizers.Sequence([normalizers.Replace("-", "$&"), normalizers.Replace(Regex(r"\s+"), " ")]),
}
decs = {
    "Metaspace": decoders.Metaspace(),
    "Metaspace, never": decoders.Metaspace(prepend_scheme="never"),
    "ByteLevel": decoders.ByteLevel(),
    "WordPiece": decoders.WordPiece(),
    "ByteFallback": decoders.Sequence([decoders.Replace("▁", "$&"), decoders.ByteFallback(), decoders.Fuse()]),
}


def recorded(name, normalizer=None, pre_tokenizer=None, decoder=None, added=(), count=5):
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", max_input_chars_per_word=100))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_tokens(list(added))
    content = json.loads(tokenizer.to_str())
    if decoder is None:
        cases = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in (text() for _ in range(count))]
    else:
        rows = [[rnd.choice(range(1, 8 if i % 2 else len(names))) for _ in range(6)] for i in range(8)]
        rows.append([vocab[b] for b in BYTES[:3]] + [vocab["a"]])
        cases = [{"ids": row, "decoded": tokenizer.decode(row, skip_special_tokens=False)} for row in rows]
    keys = ["added_tokens", "normalizer", "pre_tokenizer", "decoder"]
    return {"name": name, "parts": {key: content[key] for key in keys}, "cases": cases}


files = [recorded(name, pre_tokenizer=part) for name, part in pre.items()]
files += [recorded(name, normalizer=part) for name, part in norms.items()]
files += [recorded(f"decoder {name}", decoder=part) for name, part in decs.items()]
for flag in ["single_word", "lstrip", "rstrip", "normalized"]:
    others = {"normalized": False} if flag != "normalized" else {}
    added = [AddedToken(token, **{flag: True}, **others) for token in ["word", "<x>", "é", "ΣΟ"]]
    files.append(recorded(f"added tokens, {flag}", normalizers.Lowercase(), pre_tokenizers.Whitespace(), added=added, count=20))

meta = {"library": "tokenizers 0.23.2", "vocab": vocab, "files": files}
Path(__file__).with_name("tokenizer-parts.json").write_text(json.dumps(meta, ensure_ascii=False) + "\n")
