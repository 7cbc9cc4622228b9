#!/bin/sh
# tiktoken 0.14.0: without special tokens, Encoding.encode_to_numpy is slower than encode_ordinary and numpy.array.
#
# Expected: faster, as its docstring says ("avoids the overhead of copying the token buffer into a Python list").
# Seen: the same ids, in 1.2 times the CPU time (median of nine). With one special token, which does not occur in the
# text, it is as fast as expected: 0.6. An encoding without special tokens searches for an empty expression.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tiktoken==0.14.0 numpy==2.4.6
timeout 300 "$folder/venv/bin/python" - <<'PYTHON'
import statistics
import sys
import time

import numpy as np
import tiktoken

PATTERN = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
RANKS = {bytes([value]): value for value in range(256)}
TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps in the sun for 1234 hours.\n" * 700


def ratio(special_tokens):
    encoding = tiktoken.Encoding("bytes", pat_str=PATTERN, mergeable_ranks=RANKS, special_tokens=special_tokens)
    lists = lambda: np.array(encoding.encode_ordinary(TEXT), dtype=np.uint32)
    arrays = lambda: encoding.encode_to_numpy(TEXT, disallowed_special=())
    assert (lists() == arrays()).all()
    ratios = []
    for turn in range(9):
        seconds = {}
        for encode in (lists, arrays) if turn % 2 else (arrays, lists):
            began = time.process_time()
            for _ in range(10):
                encode()
            seconds[encode] = time.process_time() - began
        ratios.append(seconds[arrays] / seconds[lists])
    return statistics.median(ratios)


without, with_one = ratio({}), ratio({"<|endoftext|>": 256})
print(f"CPU time of encode_to_numpy / encode_ordinary and numpy.array: {without:.2f} without special tokens, {with_one:.2f} with one")
sys.exit(not (without > 1.05 > 0.9 > with_one))
PYTHON
