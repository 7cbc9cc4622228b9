"""Train every preset briefly and record what came of it, so that a refactoring can show that training is unchanged.

    python tests/loss_curves.py record before.json     # on the old commit
    python tests/loss_curves.py record after.json      # on the new one
    python tests/loss_curves.py compare before.json after.json

`quickstart` trains 200 steps as it is; every other preset trains 50 steps, shrunk. A record holds, for each preset, the
sha256 of the final weights (names, shapes, dtypes and bytes of all tensors), the loss of every logged step and the
`--json` of the command line. Only the command line and the run directory are used, so that the script works on any
version. Bits are comparable on one machine only.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open

TINY = {
    "data.corpus": "stories",
    "data.size_mb": "1.0",
    "data.validation_fraction": "0.1",
    "tokenizer.vocab_size": "300",
    "tokenizer.train_mb": "0.5",
    "model.context": "64",
    "model.vocab_size": "0",
    "train.seq_len": "0",
    "train.batch_size": "4",
    "train.total_batch_tokens": "0",
    "train.steps": "50",
    "train.log_every": "1",
    "evaluate.every": "25",
    "evaluate.batches": "2",
    "sample.every": "25",
    "sample.max_tokens": "8",
}
SHALLOW = {"model.n_layer": "2", "model.d_model": "32", "model.n_head": "2", "model.n_kv_head": "0", "model.d_ff": "0"}
SHRUNK: dict[str, dict[str, str]] = {
    "quickstart": {"train.steps": "200", "train.log_every": "1"},
    "cs336-assignment": TINY | SHALLOW,
    "cs336-lecture": TINY | SHALLOW,
    "gpt2-124m": TINY | SHALLOW | {"tokenizer.kind": "byte"},
    "gpt2-124m-stable": TINY | SHALLOW | {"tokenizer.kind": "byte"},
    "nanochat-base": TINY | {"model.depth": "2"},
    "shakespeare-char": TINY | SHALLOW,
    "shakespeare-char-gpu": TINY | SHALLOW,
    "tinystories-llama": TINY | SHALLOW | {"tokenizer.vocab_size": "400"},
}
SAME_MACHINE = {"train.device": "cpu", "train.threads": "1"}
UNSTABLE_METRICS = {"elapsed", "step_ms", "tokens_per_second", "mfu", "path"}


def record(target: Path) -> None:
    """Train all presets in a temporary home and write the record to `target`."""
    with tempfile.TemporaryDirectory() as home:
        results = {name: train(name, overrides | SAME_MACHINE, Path(home)) for name, overrides in SHRUNK.items()}
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def train(preset: str, overrides: dict[str, str], home: Path) -> dict[str, Any]:
    """Train one preset to its end and describe the result."""
    flags = [part for field, value in overrides.items() for part in (f"--{field}", value)]
    command = [sys.executable, "-m", "workbench", "train", preset, "--name", preset, "--home", str(home), "--json"]
    done = subprocess.run([*command, *flags], stdout=subprocess.PIPE, text=True, check=True)
    metrics = {name: value for name, value in json.loads(done.stdout).items() if name not in UNSTABLE_METRICS}
    run = home / "runs" / preset
    newest = max((run / "checkpoints").glob("step-*"))
    return {"weights": sha256_of(newest / "model.safetensors"), "metrics": metrics, "losses": losses_of(run)}


def sha256_of(path: Path) -> str:
    """The sha256 over all tensors of a file; the file's own bytes vary with the order of its metadata."""
    digest = hashlib.sha256()
    with safe_open(path, "pt") as tensors:
        for name in sorted(tensors.keys()):
            tensor = tensors.get_tensor(name)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def losses_of(run: Path) -> list[float]:
    """The training loss of every logged step, in nats per token."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines() if line]
    return [event["loss"] for event in events if event["type"] == "StepLogged"]


def compare(before: Path, after: Path) -> int:
    """Print every difference; 1 if there is one."""
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    different = False
    for preset in sorted(old.keys() | new.keys()):
        ours, theirs = old.get(preset, {}), new.get(preset, {})
        differences = [key for key in ("weights", "metrics", "losses") if ours.get(key) != theirs.get(key)]
        print(f"{preset}: " + (f"different {', '.join(differences)}" if differences else "equal"))
        for key in differences[:2]:
            if key == "metrics":
                print(f"  before {ours.get(key)}\n  after  {theirs.get(key)}")
        different = different or bool(differences)
    return int(different)


def main() -> int:
    match sys.argv[1:]:
        case ["record", target]:
            record(Path(target))
            return 0
        case ["compare", before, after]:
            return compare(Path(before), Path(after))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
