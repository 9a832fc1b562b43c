#!/usr/bin/env python3
"""Compares common/text with the `tokenizers` package (Apache-2.0) on random texts.

By hand, not part of the test run. Needs `pip install tokenizers` and the library as a shared object:

    gcc -O2 -shared -fPIC -D_GNU_SOURCE -I. \\
        common/text/{added,bpe,bpe_load,bpe_seam,bytelevel,decode,encode,load,load_output}.c \\
        common/text/{load_pipeline,map,normalize,pattern,pretokenize,split,tokenizer,unigram,utf8}.c \\
        common/base/{arena,buf,err,fs,hash,json,mem,utf8}.c \\
        -o /tmp/spin_text.so -ljansson -lpcre2-8 -lutf8proc -lcrypto -lm
    python3 tests/golden/text/compare.py /tmp/spin_text.so [tokenizer.json ...] [--texts 2000] [--seed 1]

Without files it makes tokenizers of its own, with every component that common/text understands, and
compares those. Ends with the number of differences and exit status 1 when there are any.
"""
import argparse
import ctypes
import json
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers


class Ids(ctypes.Structure):
    _fields_ = [("ids", ctypes.POINTER(ctypes.c_int32)), ("count", ctypes.c_size_t),
                ("capacity", ctypes.c_size_t)]


class Buf(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t),
                ("capacity", ctypes.c_size_t)]


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("text", ctypes.c_char * 1024)]


class Ours:
    """common/text behind ctypes."""

    def __init__(self, library, text):
        self.lib, self.handle, err = library, ctypes.c_void_p(), Error()
        data = text.encode()
        if library.tok_load_memory(data, ctypes.c_size_t(len(data)), b"generated",
                                   ctypes.byref(self.handle), ctypes.byref(err)) != 0:
            raise ValueError(err.text.decode())
        self.ids = Ids()

    def encode(self, text, flags):
        self.ids.count, err, data = 0, Error(), text.encode()
        if self.lib.tok_encode(self.handle, data, ctypes.c_size_t(len(data)), flags,
                               ctypes.byref(self.ids), ctypes.byref(err)) != 0:
            raise ValueError(err.text.decode())
        return self.ids.ids[:self.ids.count]

    def decode(self, ids, flags):
        buf, err = Buf(), Error()
        array = (ctypes.c_int32 * len(ids))(*ids)
        if self.lib.tok_decode(self.handle, array, ctypes.c_size_t(len(ids)), flags,
                               ctypes.byref(buf), ctypes.byref(err)) != 0:
            raise ValueError(err.text.decode())
        return ctypes.string_at(buf.data, buf.length).decode() if buf.length else ""

    def stream(self, ids, flags):
        stream, buf, err = self.lib.tok_stream_new(self.handle, flags), Buf(), Error()
        for i in ids:
            self.lib.tok_stream_push(ctypes.c_void_p(stream), i, ctypes.byref(buf), ctypes.byref(err))
            ctypes.string_at(buf.data or 0, buf.length).decode()  # fails on half a character
        self.lib.tok_stream_finish(ctypes.c_void_p(stream), ctypes.byref(buf), ctypes.byref(err))
        return ctypes.string_at(buf.data, buf.length).decode() if buf.length else ""

    def close(self):
        self.lib.tok_free(self.handle)


WORDS = """the of and to in is was he for it with as his on be at by I this had not are but from or
have an they which one you were her all she there would their we him been has when who will more no
if out so said what up its about into than them can only other new some could time these two may then
do first any my now such like our over man me even most made after also did many before must through
don't I'll we've it's they're 'S 'LL Once upon a time, there was a little girl named Lily. "Hello!"
naïve café Führer Ünïcödé Straße ΑΒΓαβγ Привет мир нещо на Български 你好 世界 こんにちは カタカナ 한국어
العربية שלום हिन्दी ไทย ქართული ʼn ǆ ﬁ ﬀ Å Å ö ö é ñ İ ı ſ K ℵ Ⅷ ½ ² ① ١٢٣ 12 345 6789 3.14 1,000,000
http://a.b/c?d=e&f <s> </s> <unk> <|endoftext|> <|im_start|> <mask> [SEP] ▁ ▁▁ _ -- ... !!! ??? ### $ €""".split()
CHARS = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\u200b",
         "\u180e", "\u0085", "\u2028", "\u200d", "\ufeff", "\u0301", "\u0323", "\u0307", "🙂",
         "👨‍👩‍👧", "🦙", "\U0001d400", "\u0e33", "\uac00", "\u1100\u1161", "<", ">", "|", "'", "’", "0",
         "9", "٣", "Ⓐ", "\u0345", "_", ".", ",", "!", "¿", "§", "©", "\x00", "\x01", "\x7f", "<0x41>"]


SCRIPTS = [(0x41, 0x7b), (0xc0, 0x250), (0x370, 0x3ff), (0x400, 0x530), (0x531, 0x58a), (0x591, 0x5f4),
           (0x600, 0x6ff), (0x900, 0x97f), (0xb80, 0xbff), (0xe01, 0xe5b), (0x10a0, 0x10ff),
           (0x1100, 0x11ff), (0x1e00, 0x1eff), (0x3041, 0x30ff), (0x4e00, 0x9fa5), (0xac00, 0xd7a3),
           (0xff01, 0xffdc), (0x1d400, 0x1d7ff)]
EMOJI = ["🙂", "❤️", "👍🏽", "🧑\u200d💻", "👨\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "🇩🇪", "🇩", "1️⃣", "☠", "\u200d", "\ufe0f",
         "\U000e0067", "🏽"]
MARKS = "\u0300\u0301\u0303\u0308\u0327\u0323\u0345\u0591\u064b\u0670\u093c\u094d\u0e47\u1ab0\u20dd\u3099\ufe20"
SPECIAL = ["<s>", "</s>", "<unk>"]  # and those of the tokenizer that is looked at


def known(code):
    """Libraries know Unicode of different ages: no characters younger than 3.2."""
    return unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Co", "Cs")


def letters(rng, count):
    low, high = rng.choice(SCRIPTS)
    return "".join(chr(c) for c in (rng.randrange(low, high) for _ in range(count)) if known(c))


def hard_text(rng):
    """Mixed scripts, emoji and their joiners, marks, controls, long runs, long words, specials."""
    out = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.randrange(11)
        if kind == 0:
            out.append(letters(rng, rng.randrange(1, 12)))
        elif kind == 1:
            out.append("".join(rng.choice(EMOJI) for _ in range(rng.randrange(1, 5))))
        elif kind == 2:
            out.append("".join(letters(rng, 1) + "".join(rng.choice(MARKS) for _ in range(rng.randrange(4)))
                               for _ in range(rng.randrange(1, 6))))
        elif kind == 3:
            out.append("".join(chr(rng.choice([*range(32), 0x7f, *range(0x80, 0xa0), 0xad, 0x200b, 0x200e,
                                               0x202e, 0x2066, 0xfeff, 0xfffd, 0xfffe, 0xffff]))
                               for _ in range(rng.randrange(1, 5))))
        elif kind == 4:
            out.append(rng.choice(["\n", " ", "\t", "\r\n", "\r", "\u00a0", "\u3000", " \n"]) *
                       rng.choice([1, 2, 3, 7, 16, 63, 200]))
        elif kind == 5:
            out.append(rng.choice(SPECIAL))
        elif kind == 6:
            word = rng.choice(SPECIAL)
            cut = rng.randrange(len(word) + 1)
            out.append(rng.choice([word[:cut], word[cut:], word.upper(), " " + word + " ", word * 3]))
        elif kind == 7 and rng.random() < 0.2:
            out.append(letters(rng, rng.choice([100, 700, 3000])) or rng.choice("aé字") * 900)
        elif kind == 8:
            out.append("".join(rng.choice("0123456789.,-+eE٣५Ⅷ²") for _ in range(rng.randrange(1, 25))))
        else:
            out.append(rng.choice(WORDS) + rng.choice(["", " ", "'s", "'LL", ".", "!!", "\n"]))
    return "".join(out)


def random_text(rng):
    if rng.random() < 0.5:
        return hard_text(rng)
    kind = rng.random()
    if kind < 0.08:
        return "".join(rng.choice(CHARS) for _ in range(rng.randrange(12)))
    if kind < 0.16:
        codes = [rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x250, 0xd800),
                             rng.randrange(0xe000, 0x1ffff)]) for _ in range(rng.randrange(30))]
        return "".join(chr(c) for c in codes if known(c))
    if kind < 0.2:
        return rng.choice(WORDS + CHARS) * rng.randrange(1, 200)
    out = []
    for _ in range(rng.randrange(1, 60)):
        out.append(rng.choice(WORDS) if rng.random() < 0.8 else rng.choice(CHARS))
        if rng.random() < 0.75:
            out.append(" ")
    return "".join(out)


def added_variants():
    return [AddedToken("<s>", special=True, normalized=False),
            AddedToken("</s>", special=True, normalized=True),
            AddedToken("<mask>", special=True, normalized=False, lstrip=True),
            AddedToken("[SEP]", special=False, normalized=False, rstrip=True),
            AddedToken("time", special=False, normalized=True, single_word=True),
            AddedToken("<|endoftext|>", special=True, normalized=False),
            AddedToken("<|end", special=False, normalized=False),
            AddedToken("你", special=False, normalized=True, lstrip=True, rstrip=True)]


def generated(vocab_size=900):
    """(name, tokenizer) for each component and some combinations."""
    nz, pt, dc = normalizers, pre_tokenizers, decoders
    gpt4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    spm = nz.Sequence([nz.Prepend("▁"), nz.Replace(" ", "▁")])
    spm_decoder = dc.Sequence([dc.Replace("▁", " "), dc.ByteFallback(), dc.Fuse(),
                               dc.Strip(" ", 1, 0)])
    level = pt.ByteLevel(add_prefix_space=False)
    plain = pt.ByteLevel(add_prefix_space=False, use_regex=False)
    cases = [
        ("none", None, None, None, {}),
        ("byte-level", None, level, dc.ByteLevel(), {}),
        ("byte-level prefix", None, pt.ByteLevel(add_prefix_space=True), dc.ByteLevel(), {}),
        ("byte-level nfc", nz.NFC(), level, dc.ByteLevel(), {}),
        ("byte-level normalizer", nz.ByteLevel(), None, dc.ByteLevel(), {}),
        ("gpt4 split", nz.NFC(), pt.Sequence([pt.Split(Regex(gpt4), "isolated"), plain]),
         dc.ByteLevel(), {"ignore_merges": True}),
        ("deepseek", None, pt.Sequence([pt.Split(Regex(r"\p{N}{1,3}"), "isolated"),
                                        pt.Split(Regex(r"[一-龥぀-ゟ゠-ヿ]+"), "isolated"), plain]),
         dc.ByteLevel(), {}),
        ("starcoder", None, pt.Sequence([pt.Digits(individual_digits=True), level]),
         dc.ByteLevel(), {}),
        ("falcon", None, pt.Sequence([pt.Punctuation("contiguous"), level, pt.Digits(False),
                                      pt.Split(Regex("[0-9][0-9][0-9]"), "isolated")]),
         dc.ByteLevel(), {}),
        ("spm", spm, None, spm_decoder, {"byte_fallback": True, "fuse_unk": True,
                                         "unk_token": "<unk>"}),
        ("spm no fallback", spm, None, spm_decoder, {"fuse_unk": True, "unk_token": "<unk>"}),
        ("spm single unk", spm, None, spm_decoder, {"unk_token": "<unk>"}),
        ("spm metaspace", None, pt.Metaspace(prepend_scheme="always"),
         dc.Metaspace(prepend_scheme="always"), {"unk_token": "<unk>"}),
        ("spm metaspace first", nz.NFKC(), pt.Metaspace(prepend_scheme="first"),
         dc.Metaspace(prepend_scheme="first"), {"byte_fallback": True, "unk_token": "<unk>"}),
        ("spm metaspace never", None, pt.Metaspace(prepend_scheme="never", split=False),
         dc.Metaspace(prepend_scheme="never"), {"byte_fallback": True, "unk_token": "<unk>"}),
        ("suffix", nz.Lowercase(), pt.BertPreTokenizer(), dc.BPEDecoder(suffix="</w>"),
         {"unk_token": "<unk>", "end_of_word_suffix": "</w>"}),
        ("prefix", nz.Sequence([nz.NFD(), nz.StripAccents()]), pt.Whitespace(), None,
         {"unk_token": "<unk>", "continuing_subword_prefix": "##"}),
        ("whitespace split", nz.NFKD(), pt.WhitespaceSplit(), None, {"unk_token": "<unk>"}),
        ("delimiter", nz.Strip(), pt.CharDelimiterSplit("e"), None, {"unk_token": "<unk>"}),
        ("replace regex", nz.Replace(Regex(r"\s+"), "_"), pt.Punctuation(), None,
         {"unk_token": "<unk>"}),
        ("words", None, pt.Split(Regex(r"\w+|\s"), "removed", invert=True), None, {}),
        ("boundaries", None, pt.Split(Regex(r"\b"), "isolated"), None, {}),
        ("scripts", None, pt.Split(Regex(r"\p{Han}+|\p{Greek}|[\s\d]"), "isolated"), None, {}),
    ]
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next",
                     "contiguous"]:
        for invert in [False, True]:
            cases.append((f"split {behavior} {invert}", None,
                          pt.Split(Regex(r"[aeiou]|\s"), behavior, invert), None, {}))
        cases.append((f"split text {behavior}", None, pt.Split("e", behavior), None, {}))
        cases.append((f"punctuation {behavior}", None, pt.Punctuation(behavior), None, {}))
    corpus = [" ".join(WORDS)] * 4 + ["hello wide world of words and wonders, 1234"] * 3
    for name, norm, pre, dec, options in cases:
        t = Tokenizer(models.BPE(**options))
        if norm is not None:
            t.normalizer = norm
        if pre is not None:
            t.pre_tokenizer = pre
        special = ["<unk>"]
        if options.get("byte_fallback"):
            special += [f"<0x{b:02X}>" for b in range(256)]
        affixes = {k: v for k, v in options.items() if k.endswith(("prefix", "suffix"))}
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if "level" in name or
            name in ("gpt4 split", "deepseek", "starcoder", "falcon") else [], **affixes)
        t.train_from_iterator(corpus, trainer)
        spec = json.loads(t.to_str())
        for token in spec["added_tokens"]:
            if token["content"].startswith("<0x"):
                token["special"] = False
        spec["added_tokens"] = [a for a in spec["added_tokens"] if a["content"] == "<unk>"]
        t = Tokenizer.from_str(json.dumps(spec))
        if dec is not None:
            t.decoder = dec
        t.add_tokens([a for a in added_variants() if not a.special])
        t.add_special_tokens([a for a in added_variants() if a.special])
        t.post_processor = processors.Sequence([
            processors.ByteLevel(), processors.TemplateProcessing(
                single="<s> $A </s>", pair="$A $B",
                special_tokens=[(x, t.token_to_id(x)) for x in ("<s>", "</s>")])])
        yield name, t
    for name, fallback in [("unigram", False), ("unigram bytes", True)]:
        pieces = [["<unk>", 0.0]] + ([[f"<0x{b:02X}>", -20.0] for b in range(256)] if fallback
                                     else [])
        rng = random.Random(7)
        seen = {"<unk>"}
        for word in ["▁" + w for w in WORDS] + WORDS + list("abcdefghijklmnopqrstuvwxyz▁.,'!"):
            for piece in {word, word[:3], word[-3:], word[:1], word[1:3]}:
                if piece and piece not in seen and not piece.startswith("<0x"):
                    seen.add(piece)
                    pieces.append([piece, -rng.random() * 12])
        t = Tokenizer(models.Unigram([tuple(p) for p in pieces], 0, fallback))
        t.pre_tokenizer = pre_tokenizers.Metaspace()
        t.decoder = spm_decoder if fallback else decoders.Metaspace()
        yield name, t


def compare(name, theirs, ours, texts):
    differences = 0

    def differ(what, text, a, b):
        nonlocal differences
        differences += 1
        if differences <= 5:
            print(f"{name}: {what}: {text!r:.300}\n  theirs {a!r:.300}\n  ours   {b!r:.300}")

    rng = random.Random(3)
    # Since 0.22 the package decodes such tokens in their normalized spelling and no longer knows
    # them as special; earlier ones, and we, give the token as it is written.
    odd = {i for i, a in theirs.get_added_tokens_decoder().items() if a.normalized and theirs.normalizer
           and theirs.normalizer.normalize_str(a.content) != a.content}
    for text in texts:
        for flags in (0, 3):
            want = theirs.encode(text, add_special_tokens=flags == 3).ids
            got = ours.encode(text, flags)
            if want != got:
                differ(f"encode {flags}", text, want, got)
        ids = want if rng.random() < 0.6 else [
            rng.choice(want or [0]) if rng.random() < 0.5 else
            rng.randrange(theirs.get_vocab_size()) for _ in range(20)]
        ids = [i for i in ids if i not in odd]
        for skip in (False, True):
            want_text = theirs.decode(ids, skip_special_tokens=skip)
            got_text = ours.decode(ids, 16 if skip else 0)
            if want_text != got_text:
                differ(f"decode {skip}", ids, want_text, got_text)
            if "\ufffd" not in got_text and ours.stream(ids, 16 if skip else 0) != got_text:
                differ("stream", ids, got_text, ours.stream(ids, 16 if skip else 0))
    print(f"{name}: {len(texts)} texts, {differences} differences")
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    library = ctypes.CDLL(args.library)
    library.tok_stream_new.restype = ctypes.c_void_p
    pairs = [(f, Tokenizer.from_file(f)) for f in args.files] or generated()
    total = 0
    for name, theirs in pairs:
        ours = Ours(library, theirs.to_str())
        rng = random.Random(args.seed)
        SPECIAL[3:] = sorted({a.content for a in theirs.get_added_tokens_decoder().values()})[:40]
        texts = [random_text(rng) for _ in range(args.texts)]
        total += compare(name, theirs, ours, texts)
        ours.close()
    print(f"{total} differences")
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
