#!/usr/bin/env python3
"""Recomputes digests from exported pairs and checkpoint directories as docs/formats.md defines them.
It shares no code with the daemons.

usage: digests.py pairs FILE.jsonl     (`spinctl --json pairs RUN --iteration T --jsonl`)
       digests.py checkpoint DIR       (`spinctl export`)
"""

import hashlib
import json
import pathlib
import struct
import sys


def ids(values):
    return struct.pack(f"<I{len(values)}i", len(values), *values)


def pairs(rows):
    rows = sorted(rows, key=lambda row: row["position"])
    digest = hashlib.sha256(b"spin-pairs 1\n\0\0\0")
    for row in rows:
        digest.update(struct.pack("<3I", row["source_iteration"], row["prompt"], row["sample"]))
        digest.update(ids(row["prompt_ids"]) + ids(row["real_ids"]) + ids(row["generated_ids"]))
        digest.update(struct.pack("<3I", row["finish_code"], int(row["ref_real_bits"], 16),
                                  int(row["ref_generated_bits"], 16)))
    return digest.hexdigest()


def checkpoint(directory):
    directory = pathlib.Path(directory)
    lines = []
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name != "provenance.json":
            data = path.read_bytes()
            lines.append(f"{hashlib.sha256(data).hexdigest()} {len(data)} {name}\n".encode())
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("pairs", "checkpoint"):
        print(__doc__, file=sys.stderr)
        return 2
    if sys.argv[1] == "checkpoint":
        print(checkpoint(sys.argv[2]))
    else:
        with open(sys.argv[2], encoding="utf-8") as file:
            print(pairs([json.loads(line) for line in file if line.strip()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
