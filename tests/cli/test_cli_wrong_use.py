"""What the command line says when it is asked for something that cannot be."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from llm.files import copy_files
from workbench import cli
from workbench.commands import runs
from workbench.commands.output import print_json

COMMANDS = ("train", "resume", "sample", "chat", "eval", "runs", "presets", "data", "tokenizer", "doctor")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian quickstart", 'there is no command "trian"; did you mean train?'),
        ("train quickstrat", 'there is no preset named "quickstrat"; did you mean quickstart?'),
        ("train", "the following arguments are required: PRESET; see llm-workbench train --help."),
        ("train quickstart --name a/b", '"a/b" is not a valid name'),
        ("train quickstart --name trash", "a run cannot be named trash"),
        ("train quickstart --no-start --track csv", "--no-start only creates the run, so --track would do nothing"),
        ("train quickstart --detach --track csv", "write the metrics later: llm-workbench runs export RUN --to LIST"),
        ("train quickstart --print-command --detach", "only prints a command, so --detach would do nothing"),
        ("runs export nothing --csv --json", "leave out --json"),
        ("eval nothing --batches -1", "must be 0 (all) or more"),
        ("presets --jsno", 'llm-workbench presets does not take "--jsno"; did you mean --json?'),
        ("runs --json extra more", 'runs has no subcommand "extra"'),
        ("sample nothing", "there is no run named nothing"),
        ("resume nothing", "train one first"),
        ("eval nothing", "there is no run named nothing"),
        ("chat nothing", "there is no run named nothing"),
        ("data --data.corpus x", "only with a preset"),
        ("tokenizer encode nothing", "there is no run named nothing"),
        ("tokenizer train quickstart", "needs --output DIR"),
        ("tokenizer shwo x", "invalid choice"),
        ("--hoem x", "llm-workbench does not take"),
        ("serve nothing --host \udcff", "give one of this machine with --host."),
        ("data download http://x/\udcff", "is not a URL (it is not UTF-8 text)"),
    ],
)
def test_wrong_use(words: str, sentence: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words.split(), "--home", str(home)]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    assert list(home.iterdir()) == []


def test_words_that_are_too_long(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (f"plan quickstart --gpus {'9' * 5000}", "--gpus takes numbers such as 8,512"),
        (f"serve nothing --host {'x' * 64}", "give one of this machine with --host."),
        (f"train quickstart --data.corpus {'x' * 256}", "data.corpus: holds a name of 256 bytes, which no file can"),
        (f"train quickstart --tokenizer.path {'é/' * 1366}", "tokenizer.path: holds a path of 4,098 bytes"),
    ):
        test_wrong_use(words, sentence, home, capsys)


def test_a_home_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a folder")
    assert cli.main(["runs", "--home", str(file)]) == 2
    assert capsys.readouterr().err == f"the home {file} is a file; set a folder with --home or $LLM_WORKBENCH_HOME.\n"
    assert file.read_text() == "not a folder"


@pytest.mark.parametrize(("words", "usage"), [("help", "llm-workbench [-h]"), ("help train", "llm-workbench train")])
def test_help_as_a_word(words: str, usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words.split())
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {usage}")


def test_all_configuration_errors_a_line_each(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "train quickstart --lr 3 --optim.kind adam --train.steps=ten --model.n-head 5 --train.tokens"
    assert cli.main([*words.split(), "9", "--home", str(home)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "lr: there is no such field; did you mean train.lr?",
        'optim.kind: must be one of adamw, sgd, muon, not "adam"; did you mean adamw?',
        'train.steps: must be a whole number, not "ten"',
        "model.n_head: 5 does not divide d_model = 192; the nearest width that it divides is 190",
    ]


def test_a_missing_corpus_leaves_no_run_behind(
    tiny_preset: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(tiny_preset), "--data.corpus", "/no/such/file", "--home", str(home)]) == 1
    assert "/no/such/file" in capsys.readouterr().err
    assert list((home / "runs").iterdir()) == []


def test_hostile_words_are_cleaned(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["\x1b[2Jtrain", "--home", str(home)]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_what_should_not_happen_is_kept_in_a_file(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(home: Path) -> list[object]:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(runs, "list_runs", broken)
    assert cli.main(["runs", "--home", str(home)]) == 1
    said = capsys.readouterr().err
    log = next((home / "logs").iterdir())
    assert said.count("\n") == 1
    assert str(log) in said
    assert "out of luck" in log.read_text()
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize("words", [[], ["chat", "tiny-1"]])
def test_the_workbench_needs_a_terminal(
    words: list[str], trained_run: object, capfd: pytest.CaptureFixture[str]
) -> None:
    home = trained_run.path.parent.parent  # type: ignore[attr-defined]
    done = run_program([*words, "--home", str(home)])
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
    assert done.stdout == ""


def run_program(words: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workbench", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **settings,  # type: ignore[call-overload]
    )


def test_help_and_version_load_neither_torch_nor_textual() -> None:
    code = """
import sys
from workbench.cli import main
try:
    main(["sample", "--help"])
except SystemExit as end:
    print("status", end.code)
main(["presets", "--home", "/nonexistent"])
print("heavy", [name for name in ("torch", "textual", "numpy", "rich.progress") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--repetition-penalty X" in done.stdout
    assert "status 0" in done.stdout
    assert "quickstart" in done.stdout
    assert "heavy []" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: llm-workbench {command}" in capsys.readouterr().out


def test_a_reader_that_has_had_enough_is_no_error(home: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    words = [sys.executable, "-m", "workbench", "presets", "quickstart", "--home", str(home)]
    done = subprocess.run(words, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_space_for_the_output_is_a_sentence(home: Path) -> None:
    words = [sys.executable, "-m", "workbench", "presets", "--home", str(home)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "no space left on the disk for the output; free some space, then try again.\n"
    assert not (home / "logs").exists()


def test_too_many_open_files_are_named_as_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.report_failure(OSError(errno.EMFILE, "Too many open files", "/proc/7/stat"), ()) == 1
    assert "/proc/7/stat could not be opened" in (said := capsys.readouterr().err) and "ulimit -n" in said


def test_an_error_of_the_system_without_a_number_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """As pyarrow and shutil raise them."""
    assert cli.report_failure(OSError("Couldn't deserialize thrift"), ()) == 1
    assert "a file cannot be used (Couldn't deserialize thrift); fix that" in capsys.readouterr().err


def test_copying_on_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    source, target = tmp_path / "tokenizer", tmp_path / "copy"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # as on a full disk, for this process
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            copy_files(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    copy_files(source, target)
    assert (target / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize(
    "words",
    [
        "--home ~nosuch/home runs",
        "train quickstart --no-start --size small --data.corpus ~nosuch/text.txt",
        "train quickstart --no-start --size small --tokenizer.path ~nosuch/tokenizer",
        "train quickstart --no-start --size small --evaluate.core-path ~nosuch/core",
        "train ~nosuch/preset.toml --no-start",
        "runs ~nosuch/run",
        "sample nothing --prompt-file ~nosuch/prompts.txt",
    ],
)
def test_the_home_of_an_unknown_user_is_a_name_like_any_other(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """As a shell leaves it."""
    monkeypatch.setenv("LLM_WORKBENCH_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) in (0, 1, 2)
    assert "bug" not in capsys.readouterr().err
    assert not (home / "logs").exists()


def test_without_a_home_directory_a_home_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container with a user that has no entry in /etc/passwd."""
    monkeypatch.delenv("LLM_WORKBENCH_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", os.fspath)
    assert cli.main(["runs"]) == 2
    assert "this user has no home directory; set a folder with --home" in capsys.readouterr().err
    assert cli.main(["--version"]) == 0


def test_a_home_that_is_not_utf8_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = os.fsdecode(os.fsencode(tmp_path) + b"/h\xe9")
    for words in (["runs", "--json"], ["train", "quickstart", "--no-start"]):
        assert cli.main(["--home", home, *words]) == 2
        assert "is a name that is not UTF-8 text; set a folder with --home" in capsys.readouterr().err
    assert cli.main(["--home", home, "--version", "--json"]) == 0


def test_a_corpus_in_a_folder_that_is_not_utf8_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xe9"))
    folder.mkdir()
    (folder / "text.txt").write_text("a text")
    monkeypatch.chdir(folder)
    words = ["--home", str(home), "train", "quickstart", "--no-start", "--size", "small", "--data.corpus", "text.txt"]
    assert cli.main(words) == 2
    assert "data.corpus: is in a folder with a name that is not UTF-8 text" in capsys.readouterr().err
    assert not list((home / "runs").glob("*"))


def test_bytes_of_a_path_are_printed_as_escapes_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": os.fsdecode(b"caf\xe9"), "other": "é"})
    printed = capsys.readouterr().out
    printed.encode()
    assert os.fsencode(json.loads(printed)["path"]) == b"caf\xe9"
