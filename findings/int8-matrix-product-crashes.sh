#!/bin/sh
# torch 2.13.0 on a CPU: _weight_int8pack_mm reads beyond its inputs where their width is no multiple of its vector.
#
# Expected: the product, or an error that names the widths it supports.
# Seen: with 20 inputs and 5 rows of bfloat16 the process ends with a segmentation fault (x86-64, AVX2); with 32 inputs
# the product is right.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/product.py" <<'PYTHON'
import sys

import torch

inputs = int(sys.argv[1])
torch.set_num_threads(1)
weight, scales = torch.ones(32, inputs, dtype=torch.int8), torch.ones(32).bfloat16()
x = torch.ones(5, inputs).bfloat16()
for _ in range(300):
    assert (torch._weight_int8pack_mm(x, weight, scales) == inputs).all()
PYTHON
"$folder/venv/bin/python" "$folder/product.py" 32
! "$folder/venv/bin/python" "$folder/product.py" 20
