"""Writes sentencepiece-*.model and .json next to itself, with sentencepiece 0.2.2: texts, their ids, the text of the ids.

It reuses the texts of sentencepiece-bpe, which it does not write. The models were trained on the READMEs that the packages had
then; training has no seed.
"""

import json
import os
from pathlib import Path

import sentencepiece

here = Path(__file__).parent
os.chdir(here)  # A model stores the paths of its training files.
symbols = ["<image>", "a+b", "\n"]
variants = {
    "unigram": dict(model_type="unigram", character_coverage=0.995),
    "unigram-blanks": dict(model_type="unigram", user_defined_symbols=symbols, remove_extra_whitespaces=False),
    "bpe-user-defined": dict(model_type="bpe", user_defined_symbols=symbols, control_symbols=["<sep>"], character_coverage=0.99),
    "bpe-bare": dict(
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["\u2581\u2581", *symbols],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        unk_id=3,
        pad_id=0,
    ),
}
texts = [case["text"] for case in json.loads(Path("sentencepiece-bpe.json").read_text())["cases"]]
texts += [
    "a <image> b<image>c",
    "  <image>  a+b\n\n  aa+bb ",
    "banana bananas aaaaaa abababab",
    "   one    two     three      ",
    "the model\nthat sees\n",
]

for name, options in variants.items():
    stem = Path(f"sentencepiece-{name}")
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(map(str, sorted(Path("../../..").glob("*/README.md")))),
        model_prefix=str(stem),
        vocab_size=600,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=2,
        **options,
    )
    stem.with_suffix(".vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=f"{stem}.model")
    cases = [{"text": t, "ids": model.encode(t), "decoded": model.decode(model.encode(t))} for t in texts]
    about = {"library": "sentencepiece 0.2.2", "options": options, "unknown": model.unk_id(), "cases": cases}
    stem.with_suffix(".json").write_text(json.dumps(about, ensure_ascii=False, separators=(",", ":")))
