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


class RawSpec:
    """A tokenizer as it is written, not as the package would write it."""

    def __init__(self, spec):
        self.spec, self.tokenizer = spec, Tokenizer.from_str(json.dumps(spec))
        self.encode, self.decode = self.tokenizer.encode, self.tokenizer.decode

    def to_str(self):
        return json.dumps(self.spec)


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
    t = bpe(unk_token="<unk>")
    t.normalizer = normalizers.Replace(Regex(r"\pL|[\Pb]"), "x")
    yield "a property without braces is a letter", t, ["apLe", "abc", "P", "pb"]
    t = Tokenizer(models.BPE(vocab={**VOCAB, " <unk>": 40, "<unk>a": 41, "<unk><unk>": 42},
                             merges=[(" ", "<unk>"), ("<unk>", "a"), ("<unk>", "<unk>")],
                             unk_token="<unk>"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    spec = json.loads(Tokenizer(models.BPE(vocab={**letters, "he": 256}, merges=[("h", "e")])).to_str())
    spec["model"].update(unk_token="", merges=["#version: 0.2", "h e"])
    byte_level = Tokenizer.from_str(json.dumps(spec))
    byte_level.pre_tokenizer, byte_level.decoder = level, decoders.ByteLevel()
    byte_level = RawSpec({**json.loads(byte_level.to_str()), "model": spec["model"]})
    yield "an unknown token that is none, merges with the head of merges.txt", byte_level, [
        "he hé", "\U0001f642 hehe"]
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
