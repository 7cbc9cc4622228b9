#!/bin/sh
# tokenizers 0.23.3: a possessive quantifier {n,m}+ in a Split pattern is read as a repetition of {n,m}.
#
# Expected: \p{N}{1,2}+ cuts 12345 into 12 34 5, as in regex, PCRE2, Java and tiktoken (cl100k's pattern has \p{N}{1,3}+).
# Seen: one piece, 12345. Oniguruma in Ruby syntax takes + after {n,m} for a second quantifier. \p{N}{1,2} does it.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps tokenizers==0.23.3 regex==2026.11.19
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import regex
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

for pattern in (r"\p{N}{1,2}+", r"\p{N}{1,2}"):
    pieces = [piece for piece, _ in Split(Regex(pattern), "isolated").pre_tokenize_str("12345")]
    print(f"{pattern}: regex {regex.findall(pattern, '12345')}, tokenizers {pieces}")
    if pattern.endswith("+"):
        surprising = pieces == ["12345"] and regex.findall(pattern, "12345") == ["12", "34", "5"]
    else:
        surprising = surprising and pieces == ["12", "34", "5"]
sys.exit(not surprising)
PYTHON
