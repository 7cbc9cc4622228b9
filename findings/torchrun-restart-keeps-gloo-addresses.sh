#!/bin/sh
# torch 2.13.0: after a restart by torchrun, ranks find the addresses of the ranks before it, and gloo cannot connect.
#
# Expected: with --max-restarts, init_process_group("gloo") of the new ranks connects them with each other.
# Seen: torchrun shares one TCPStore among all attempts (dynamic rendezvous), under the same keys, and a new rank that
# reads before another has written gets an address of the attempt before: "Gloo connectFullMesh failed with … Connection
# refused". It needs a rank 0 that is slower to start, which is made certain here by a sleep. A PrefixStore named by
# TORCHELASTIC_RESTART_COUNT mends it.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/rank.py" <<'PYTHON'
import os
import time

import torch.distributed as dist

attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
if attempt == "1" and rank == "0":
    time.sleep(5)
dist.init_process_group("gloo")
if attempt == "0":
    os._exit(1)
print("connected after the restart", flush=True)
PYTHON
said=$(timeout 120 "$folder/venv/bin/torchrun" --standalone --nproc-per-node 2 --max-restarts 1 "$folder/rank.py" 2>&1 || true)
case $said in
*"connectFullMesh failed"*) echo "gloo found the addresses of the ranks before the restart" ;;
*) echo "$said"; exit 1 ;;
esac
