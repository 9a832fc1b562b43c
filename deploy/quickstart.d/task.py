"""The quickstart's task: put a list of words in alphabetical order.

Every data set is a pure function of a seed and a name. A careful answer is right; a sloppy one has
its last two words the wrong way round, which is the systematic fault that the starting model has
learned and that self-play is to remove. Only random.Random.random() is used, whose sequence Python
guarantees, so the same seed makes the same bytes everywhere.
"""

import json
import os
import random

WORDS = (
    "apple bread cloud drum eagle flute grape horse island jam kite lemon moon nest ocean piano "
    "queen river stone tiger uncle violin water xylophone yarn zebra"
).split()
MIN_WORDS = 5
MAX_WORDS = 8
END_TOKEN = "<|end|>"

# The shipped starting model: deploy/quickstart.d/make-base makes it again, bit for bit.
BASE_SEED = 1
BASE_ROWS = 16000
FAULT_SHARE = 0.5


def base_directory():
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "base")


def pick(rng, items, count):
    """`count` distinct items in random order."""
    pool = list(items)
    for i in range(count):
        j = i + int(rng.random() * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:count]


def problems(seed, name, count, exclude=()):
    """`count` different problems (tuples of words), none of them in `exclude`."""
    rng = random.Random(f"{name} {seed}")
    seen = set(exclude)
    found = []
    while len(found) < count:
        words = tuple(pick(rng, WORDS, MIN_WORDS + int(rng.random() * (MAX_WORDS - MIN_WORDS + 1))))
        if words not in seen:
            seen.add(words)
            found.append(words)
    return found


def prompt_text(words):
    return "Put in order: " + " ".join(words) + "\nIn order:"


def careful_answer(words):
    return " " + " ".join(sorted(words))


def sloppy_answer(words):
    answer = sorted(words)
    answer[-1], answer[-2] = answer[-2], answer[-1]
    return " " + " ".join(answer)


def is_right(words, answer):
    """The checker: does the answer hold just these words in alphabetical order?"""
    return answer.split() == sorted(words)


def corpus(seed, count, fault_share, exclude=()):
    """Rows for the starting model: sloppy answers with the given share."""
    rng = random.Random(f"faults {seed}")
    rows = []
    for words in problems(seed, "corpus", count, exclude):
        sloppy = rng.random() < fault_share
        answer = sloppy_answer(words) if sloppy else careful_answer(words)
        rows.append({"prompt": prompt_text(words), "response": answer})
    return rows


def careful(words_list):
    return [{"prompt": prompt_text(w), "response": careful_answer(w)} for w in words_list]


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, separators=(", ", ": ")) + "\n")


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


def tokenizer():
    """A byte-level BPE in which each word with its space is one token."""
    alphabet = byte_alphabet()
    vocabulary = {END_TOKEN: 0}
    for byte in range(256):
        vocabulary[alphabet[byte]] = len(vocabulary)
    merges = []
    pieces = ["Put", " in", " order", "In"] + [" " + word for word in WORDS]
    for piece in pieces:
        letters = [alphabet[b] for b in piece.encode()]
        left = letters[0]
        for right in letters[1:]:
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append(f"{left} {right}")
            left += right
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 0,
                "content": END_TOKEN,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
