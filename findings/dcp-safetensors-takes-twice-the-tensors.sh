#!/bin/sh
# torch 2.13.0: HuggingFaceStorageWriter holds two more copies of all tensors in memory while it writes its file.
#
# Expected: a writer that streams, as FileSystemWriter does.
# Seen: 512 MB in eight tensors raise the peak by about 1 GB (the file is serialized as bytes, from bytes of each tensor).
# With fqn_to_index_mapping, a file for each tensor of 64 MB, it rises by 130 MB; with FileSystemWriter by 1 MB.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy safetensors==0.8.0
cat > "$folder/rise.py" <<'PYTHON'
import resource
import sys

import torch
import torch.distributed.checkpoint as dcp

folder, kind = sys.argv[1:]
state = {f"w{number}": torch.ones(16 << 20) for number in range(8)}  # 64 MB each
mapping = {name: number for number, name in enumerate(state, 1)} if kind == "files" else None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if kind == "torch.save":
    dcp.save(state, storage_writer=dcp.FileSystemWriter(f"{folder}/{kind}"), no_dist=True)
else:
    dcp.save(state, storage_writer=dcp.HuggingFaceStorageWriter(f"{folder}/{kind}", mapping), no_dist=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
PYTHON
for kind in torch.save one-file files; do
  rise=$(timeout 120 "$folder/venv/bin/python" "$folder/rise.py" "$folder" "$kind" 2>/dev/null)
  echo "$kind: the peak rose by $rise MB"
  case $kind in
    torch.save) [ "$rise" -lt 200 ] ;;
    one-file) [ "$rise" -gt 900 ] ;;
    files) [ "$rise" -lt 400 ] ;;
  esac
done
