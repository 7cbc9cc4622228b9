#!/bin/sh
# transformers 5.24.0 (tokenizers 0.23.3): AutoTokenizer keeps the pre-tokenizer of a tokenizer.json for some model types
# and replaces it without a word for others.
#
# Expected: the ids that tokenizers itself gives from the same tokenizer.json, whatever model_type config.json names.
# Seen: so it is with model_type llama; with gpt2 and qwen2 the pieces are cut by the class's own pattern, and the ids
# differ. The tokenizer here splits small letters one by one (Split "[a-z]"), which their patterns do not.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {letter: number for number, letter in enumerate(alphabet)}
vocabulary["ab"] = len(vocabulary)
vocabulary["<|endoftext|>"] = len(vocabulary)
own = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
own.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex("[a-z]"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
)
own.decoder = decoders.ByteLevel()
expected = own.encode("ab").ids
print(f"tokenizers: {expected}")
same = {}
for kind in ("llama", "gpt2", "qwen2"):
    place = Path(sys.argv[1]) / kind
    place.mkdir()
    own.save(str(place / "tokenizer.json"))
    (place / "config.json").write_text(json.dumps({"model_type": kind}))
    found = AutoTokenizer.from_pretrained(place)
    ids = found("ab", add_special_tokens=False)["input_ids"]
    same[kind] = ids == expected
    print(f"{kind}: {ids} ({type(found).__name__}), {len(found)} ids of {len(vocabulary)}")
sys.exit(same != {"llama": True, "gpt2": False, "qwen2": False})
PYTHON
