#!/bin/sh
# torch 2.13.0: HuggingFaceStorageWriter with enable_consolidation writes 0 for every tensor without dimensions.
#
# Expected: the consolidated file holds the values that were saved.
# Seen: the shard of the rank holds them; in the consolidated file a tensor of shape [] is 0, without an error. A tensor
# of shape [1] is right.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy safetensors==0.8.0
timeout 60 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

folder = Path(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
writer = dcp.HuggingFaceStorageWriter(str(folder / "saved"), save_distributed=True, enable_consolidation=True)
dcp.save({"none": torch.tensor(6.0), "one": torch.tensor([5.0])}, storage_writer=writer)
(shard,), (joined,) = ((folder / "saved").glob(pattern) for pattern in ("sharded/*.safetensors", "*.safetensors"))
saved, read = load_file(shard), load_file(joined)
print(f"saved {saved}, consolidated {read}")
dist.destroy_process_group()
sys.exit(not (saved["none"] == 6 and read["none"] == 0 and read["one"] == 5))
PYTHON
