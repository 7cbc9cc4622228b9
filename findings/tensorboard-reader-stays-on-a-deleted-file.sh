#!/bin/sh
# tensorboard 2.21.0: a reader that is open never reads a newer event file once the file it has read is deleted.
#
# Expected: after a run's event file is replaced by a newer one, Reload() of the same EventAccumulator reads the new file.
# Seen: it keeps the old scalars for ever, without a warning. If the old file stays, it moves on to the new one. A fresh
# reader sees the new file in both cases. To replace a curve, write the new file (SessionLog START voids the old steps)
# and delete the old one later.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorboard==2.21.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def write(logs: Path, value: float) -> None:
    writer = EventFileWriter(str(logs))
    writer.add_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
    writer.add_event(Event(wall_time=1.0, step=1, summary=Summary(value=[Summary.Value(tag="loss", simple_value=value)])))
    writer.close()


seen = {}
for deleted in (True, False):
    logs = Path(sys.argv[1]) / f"logs-{deleted}"
    write(logs, 5.0)
    old = next(logs.iterdir())
    reader = EventAccumulator(str(logs))
    reader.Reload()
    time.sleep(1.1)  # the second is part of the file's name
    write(logs, 6.0)
    if deleted:
        old.unlink()
    reader.Reload()
    fresh = EventAccumulator(str(logs))
    fresh.Reload()
    seen[deleted] = [[event.value for event in one.Scalars("loss")] for one in (reader, fresh)]
    print(f"old file {'deleted' if deleted else 'kept'}: the open reader has {seen[deleted][0]}, a fresh one {seen[deleted][1]}")
sys.exit(seen != {True: [[5.0], [6.0]], False: [[6.0], [6.0]]})
PYTHON
