"""The one reader of JSON and TOML: its limits, and that nothing waits for what is no regular file."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

from llm.errors import UserError
from llm.files import read_json, write_json
from llm.reader import MAX_DEPTH, Malformed, TooManyOpenFiles, load_json, load_toml, open_file, parse_json, parse_toml

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DEEP, "nested more than 64 deep"),
        (DEEP + "]" * 100_000, "nested more than 64 deep"),
        ('{"a":' * 10_000, "nested more than 64 deep"),
        ("[1, 2", "delimiter"),
        ("9" * 5_000, "a number of 5,000 digits"),
        ('{"a": ' + "9" * 101 + "}", "a number of 101 digits"),
        ("", "Expecting value"),
    ],
)
def test_json_beyond_a_limit_is_malformed(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse_json(text)
    with pytest.raises(Malformed, match=reason):
        parse_json(text.encode())


def test_brackets_within_a_text_are_no_depth() -> None:
    text = DEEP + '\\" [[ {{'
    assert parse_json('["' + DEEP + '\\" [[ {{"]') == [text.replace("\\", "")]
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json("[" + "[], " * 1_000 + "[]]")[-1] == []


def test_json_that_is_too_long() -> None:
    with pytest.raises(Malformed, match="longer than 10 bytes"):
        parse_json(b'"' + b"x" * 10 + b'"', max_bytes=10)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"a = {DEEP}", "nested too deeply"),
        ("a = " + "[" * 100 + "]" * 100, "nested more than 64 deep"),
        ("a." * 5_000 + "b = 1", "nested more than 64 deep"),
        ("[" + "a." * 200_000 + "b]\n" + "c = 1\n" * 20_000, "nested more than 64 deep"),
        ("a = 0x" + "f" * 10_000, "more than 100 digits"),
        ("a = " + "9" * 5_000, "digits"),
        ("x" * (2 << 20), "longer than 1,048,576 bytes"),
        ("a = ", "Invalid value"),
    ],
)
def test_toml_beyond_a_limit_is_malformed(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse_toml(text)


def test_nothing_waits_for_a_fifo_a_socket_or_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "fifo", tmp_path / "socket", Path("/dev/zero"), tmp_path):
            with pytest.raises(OSError):
                open_file(path)
            with pytest.raises(OSError):
                load_json(path)
            with pytest.raises(OSError):
                load_toml(path)
            with pytest.raises(UserError, match="cannot be read"):
                read_json(path)


def test_a_link_is_followed_only_where_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    (tmp_path / "link").symlink_to("file")
    assert load_json(tmp_path / "link") == 1
    with pytest.raises(OSError):
        open_file(tmp_path / "link", follow=False)


def test_too_many_open_files_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    path.write_text("{}")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(
            TooManyOpenFiles, match=r"too many open files \(its limit is [0-9,]+\); raise it with ulimit"
        ):
            read_json(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_value_that_utf_8_cannot_hold_is_written_and_read_again(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"notes": "\ud800"})
    assert read_json(tmp_path / "a.json") == {"notes": "\ud800"}


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_an_error_of_the_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match="its name cannot be used"):
        open_file(tmp_path / name)
