"""The event log survives what happens to files: torn tails, NULs, full disks, many writers of commands."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
from pathlib import Path

import pytest

from llm.errors import UserError
from llm.events import Evaluated, Event, Finished, Paused, Progress, Resumed, StepLogged, Warned, from_record, to_line
from llm.run import Run
from llm.run.log import (
    CommandTail,
    EventLog,
    EventTail,
    last_event_of,
    last_events,
    parse_record,
    read_events,
    send_command,
)


def warned(step: int) -> Warned:
    return Warned(step=step, message=f"message {step} é 漢字", time=1.5, elapsed=0.25)


def steps(events: list[Event]) -> list[int]:
    return [getattr(event, "step", -1) for event in events]


def test_every_number_travels_including_those_json_has_no_word_for() -> None:
    event = StepLogged(
        step=1,
        tokens_seen=2,
        loss=math.nan,
        lr=math.inf,
        lr_multiplier=1.0,
        grad_norm=-math.inf,
        step_ms=1.0,
        tokens_per_second=3.0,
        total_flops=1e12,
    )
    record = parse_record(to_line(event).rstrip())
    assert record is not None
    assert (record["loss"], record["lr"], record["grad_norm"]) == ("NaN", "Infinity", "-Infinity")
    back = from_record(record)
    assert isinstance(back, StepLogged)
    assert math.isnan(back.loss) and back.lr == math.inf and back.grad_norm == -math.inf
    assert back.step == 1 and back.mfu is None


def test_unknown_types_and_fields_and_missing_fields_are_passed_over() -> None:
    assert from_record({"type": "FromTheFuture", "step": 1}) is None
    assert from_record({"type": "Warned", "step": 1}) is None
    assert from_record({"type": "Warned", "step": 1, "message": "m", "colour": "red"}) is not None


@pytest.mark.parametrize(
    "wrong", [{"step": None}, {"step": 1.5}, {"step": True}, {"elapsed": []}, {"time": "soon"}, {"message": 3}]
)
def test_a_field_of_another_kind_makes_no_event(wrong: dict[str, object]) -> None:
    whole = {"type": "Warned", "step": 1, "message": "m", "time": 5, "elapsed": "NaN"}
    assert from_record(whole) is not None
    assert from_record(whole | wrong) is None


def test_a_tail_sees_each_event_once_and_waits_for_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.poll() == []
    log = EventLog(path)
    log.append(warned(1))
    assert tail.poll() == [warned(1)]
    line = to_line(warned(2))
    with path.open("ab") as file:
        file.write(line[:17])
        file.flush()
        assert tail.poll() == []
        file.write(line[17:])
    assert tail.poll() == [warned(2)]
    assert tail.poll() == []


@pytest.mark.parametrize("damage", [b'{"type": "Warn', b"\0" * 4096, b'{"half": ', b"\n\n\n", b"\xff\xfe garbage"])
def test_appending_after_damage_starts_a_new_line_and_loses_nothing(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append(warned(1))
    log.close()
    with path.open("ab") as file:
        file.write(damage)
    log = EventLog(path)
    log.append(warned(2))
    assert list(read_events(path)) == [warned(1), warned(2)]
    assert EventTail(path).poll() == [warned(1), warned(2)]


def test_a_log_cut_short_from_outside_is_read_on_from_its_new_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for step in range(5):
        log.append(warned(step))
    tail = EventTail(path)
    assert len(tail.poll()) == 5
    os.truncate(path, len(to_line(warned(0))))
    assert tail.poll() == []
    log.append(warned(9))
    assert tail.poll() == [warned(9)]


def test_a_full_disk_does_not_stop_the_writer_and_the_gap_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    real_write = os.write
    full = True

    def write(descriptor: int, data: bytes) -> int:
        if descriptor == log.lines.descriptor and full:
            if log.lost == 0:
                return real_write(descriptor, data[: len(data) // 2])  # the last bytes of space
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    for step in range(3):
        log.append(warned(step))
    full = False
    log.append(warned(3))
    events = list(read_events(path))
    assert steps(events) == [3, 3]
    note = events[0]
    assert isinstance(note, Warned) and note.message.startswith("3 log lines")
    assert log.lost == 0


def test_reading_in_pieces_equals_reading_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(to_line(warned(step)) for step in range(300)))
    tail, pieces = EventTail(path), []
    while piece := tail.poll(limit=997):
        pieces += piece
    assert steps(pieces) == list(range(300)) == steps(list(read_events(path)))


def test_the_end_of_a_long_log_is_found_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(to_line(warned(step)) for step in range(2000)))
    events = last_events(path, window=1000)
    assert 0 < len(events) < 20
    assert events[-1] == warned(1999)


def test_commands_are_read_from_where_the_log_ended_when_the_reader_came(tmp_path: Path) -> None:
    path = tmp_path / "commands.jsonl"
    send_command(path, "stop", {})
    tail = CommandTail(path)
    assert tail.poll() == []
    identity = send_command(path, "set", {"key": "train.clip", "value": "0.5"})
    (command,) = tail.poll()
    assert (command.name, command.id, command.arguments["key"]) == ("set", identity, "train.clip")
    with path.open("ab") as file:
        file.write(b'not json\n{"command": "pause", "id": "x", "arguments": null}\n')
    assert [command.name for command in tail.poll()] == ["pause"]


def test_metrics_declared_optional_come_back_as_numbers() -> None:
    event = Evaluated(step=1, validation_loss=math.inf, perplexity=math.inf, bits_per_byte=1.0, tokens=3)
    record = parse_record(to_line(event).rstrip())
    assert record is not None
    assert from_record(record | {"train_loss": "NaN"}) is not None
    back = from_record(record)
    assert isinstance(back, Evaluated) and back.validation_loss == math.inf and back.train_loss is None


def test_the_note_of_a_gap_comes_before_the_end_of_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    log = run.log()
    log.lost = 3
    log.append(Finished(step=7, status="finished"))
    assert run.status().name == "finished"
    assert [type(event) for event in run.events()] == [Warned, Finished]


def test_a_paused_run_is_listed_as_paused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    log = run.log()
    log.append(Paused(step=7))
    assert run.status().name == "crashed", "nobody trains it"
    with run.lock():
        assert run.status().name == "paused" and run.status().is_running
        log.append(Resumed(step=7))
        assert run.status().name == "running"
        log.append(Paused(step=7))
        log.append(Progress(stage="Evaluating", done=1, total=2, step=7))
        assert run.status().name == "paused", "it is still, while it is evaluated"
        log.append(Progress(stage="Tokenizing", done=1, total=2))
        assert run.status().name == "running", "another took it up after it was killed in the pause"


def test_a_long_stretch_without_a_line_is_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(to_line(warned(1)) + b"\0" * (3 << 20) + b"\n" + to_line(warned(2)))
    assert steps(list(read_events(path))) == [1, 2]


def test_a_log_of_holes_is_read_without_them(tmp_path: Path) -> None:
    """2⁴² bytes of NULs, which take no room on the disk: reading them would take an hour."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(to_line(warned(1)))
    os.truncate(path, 1 << 42)
    assert last_event_of(path, Warned) == warned(1)
    assert last_event_of(path, Finished) is None
    assert Run(tmp_path).status().name == "crashed"
    log = EventLog(path)
    log.append(warned(2))
    assert steps(list(read_events(path))) == [1, 2]
    tail = EventTail(path)
    assert steps(tail.poll() + tail.poll()) == [1, 2]
    log.append(warned(3))
    assert tail.poll() == [warned(3)]
    assert last_event_of(path, Warned) == warned(3)


def test_the_last_event_of_a_kind_is_found_across_long_lines(tmp_path: Path) -> None:
    """A log of several megabytes is searched in pieces, and a line may be longer than a piece."""
    path = tmp_path / "events.jsonl"
    long = Warned(step=7, message="x" * (3 << 20), time=1.5, elapsed=0.25)
    lines = [to_line(Finished(step=1, status="finished")), to_line(long), b"\0" * (20 << 20), b"\n"]
    path.write_bytes(b"".join([*lines, *(to_line(Resumed(step=step)) for step in range(30_000))]))
    assert last_event_of(path, Warned) == long
    found = last_event_of(path, Finished)
    assert found is not None and found.step == 1
    assert last_event_of(path, Paused) is None


@pytest.mark.parametrize(
    "line",
    [b'{"type": ["Warned"]}', b'{"type": "Evaluated", "validation_loss": "low"}', b'{"command": 1, "arguments": [2]}'],
)
def test_lines_of_the_wrong_shape_are_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    commands = CommandTail(path)
    path.write_bytes(line + b"\n" + to_line(warned(1)))
    assert steps(list(read_events(path))) == [1]
    assert all(command.arguments == {} for command in commands.poll())


def test_commands_are_strict_json(tmp_path: Path) -> None:
    """Numbers that are not finite are strings, as in the events."""
    path = tmp_path / "commands.jsonl"
    tail = CommandTail(path)
    send_command(path, "set", {"key": "train.lr", "value": float("nan"), "more": [float("-inf")]})

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    arguments = json.loads(path.read_text(), parse_constant=refuse)["arguments"]
    assert (arguments["value"], arguments["more"]) == ("NaN", ["-Infinity"])
    assert tail.poll()[0].arguments["value"] == "NaN"


def test_a_command_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "commands.jsonl"
    path.touch()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # as on a full disk, for this process
    try:
        with pytest.raises(
            UserError, match=r"commands\.jsonl cannot be written \(File too large\), so the trainer did"
        ):
            send_command(path, "stop", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"commands\.jsonl cannot be written \(Is a directory\)"):
        send_command(path, "stop", {})
