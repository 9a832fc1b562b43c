#!/usr/bin/env python3
"""Makes corners.jsonl for tests/unit/text/test_tokenizer_golden.c with the `tokenizers` package.

    python3 tests/golden/text/make_corners.py

A line is a tokenizer of a few tokens, {"what", "tokenizer", "texts": [{"text", "ids", "special",
"decoded"}]}, each for a rule that random texts seldom reach.
"""
import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
LETTERS = "<unk> a b c e x - _ ▁ ab bc ae".split() + [" ", "\t", "\n"]
VOCAB = {token: i for i, token in enumerate(LETTERS)}
MERGES = [("a", "b"), ("b", "c"), ("a", "e")]


def bpe(**options):
    return Tokenizer(models.BPE(vocab=VOCAB, merges=MERGES, **options))


def corners():
    t = bpe()
    t.add_tokens([AddedToken("  ", lstrip=True, rstrip=True, normalized=False)])
    yield "a token of spaces that takes spaces: what it has taken is gone", t, [
        "a  b", "a     b", "a      b", "a       b", "  ", "    ", " \n  \n  a"]
    t = bpe()
    t.add_tokens([AddedToken("<r>", rstrip=True, normalized=False),
                  AddedToken(" b", normalized=False)])
    yield "a token that starts in spaces that another one has taken", t, [
        "a<r>   bc", "a<r> b", "<r> \n b", "<r>\n\nb", "a  <r>  b"]
    for behavior in ["merged_with_previous", "merged_with_next", "contiguous", "isolated", "removed"]:
        for invert in [False, True]:
            t = bpe()
            t.pre_tokenizer = pre_tokenizers.Split(Regex("e?"), behavior, invert)
            yield f"no empty match behind a match, {behavior} {invert}", t, [
                "abc", "eabe", "abebc", "ee", "e", "aeb", "aeae"]
    t = bpe(unk_token="<unk>")
    t.normalizer = normalizers.Replace(Regex("x*"), "-")
    t.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("e*"), "_")])
    yield "replacing empty matches", t, ["abxc", "x", "xxa", "axx", "eaeeb"]
    t = Tokenizer(models.BPE(vocab={**VOCAB, " <unk>": 40, "<unk>a": 41, "<unk><unk>": 42},
                             merges=[(" ", "<unk>"), ("<unk>", "a"), ("<unk>", "<unk>")],
                             unk_token="<unk>"))
    yield "merges of the unknown token", t, [" é", "éa", "éé", "é éa b éé", "éééa"]


def main():
    with open(os.path.join(HERE, "corners.jsonl"), "w", encoding="utf-8") as out:
        for what, tokenizer, texts in corners():
            rows = []
            for text in texts:
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                rows.append({"text": text, "ids": ids, "special": tokenizer.encode(text).ids,
                             "decoded": tokenizer.decode(ids)})
            row = {"what": what, "tokenizer": json.loads(tokenizer.to_str()), "texts": rows}
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
