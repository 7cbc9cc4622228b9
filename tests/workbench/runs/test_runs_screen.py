"""The Runs screen in the real app, on runs that were written to disk."""

from __future__ import annotations

import threading

from textual.widgets import Input, Static

from tests.workbench.runs.screen_for_tests import RunsApp, home_with_runs, names, opened
from tests.workbench.runs_for_tests import make_run, save_fake, step_logged
from tests.workbench.waiting import shown, until_true, was_notified
from workbench.runs.catalog import RunCatalog
from workbench.ui.dialogs import Ask, AskText


async def test_no_runs_says_what_to_do(tmp_path):
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        await until_true(lambda: pilot.app.screen.has_class("empty"))
        assert "No runs yet" in str(pilot.app.screen.query_one("#runs-empty", Static).render())
        make_run(tmp_path, "first-1", steps=2)
        screen = await opened(pilot, 1)
        await until_true(lambda: screen.runs_table.has_focus, "the keys of the table")


async def test_runs_and_checkpoints_are_listed(tmp_path):
    home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(120, 30)) as pilot:
        screen = await opened(pilot, 2)
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        assert screen.checkpoint_table.keys == ["4", "2"]
        row = first_line_with(screen, "✓ finished").split()
        assert row[:7] == ["alpha-1", "✓", "finished", "4/500", "2.000", "2.100", "1.050"]
        kept = {key: lines_of(screen.checkpoint_table)[key] for key in ("4", "2")}
        assert "best last" in kept["4"] and "best" not in kept["2"] and "last" not in kept["2"]


def lines_of(table):
    """Key of a row → what it says, cells parted by spaces."""
    return {key: " ".join(cell.plain for cell in table.get_row(key)) for key in table.keys}


def first_line_with(screen, text):
    return next((line for line in shown(screen).splitlines() if text in line), "")


async def test_columns_are_shown_whole_or_not_at_all(tmp_path):
    corpus = "/home/somebody/texts/of/every/kind/tinyshakespeare.txt"
    run = make_run(tmp_path, "shakespeare-char-with-rope-12", steps=400, loss=2.0, corpus=corpus)
    save_fake(run, 2, 2.5)
    save_fake(run, 4, 2.0)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 1)
        await until_true(
            lambda: "checkpoints of shakespeare" in shown(screen) and "bits/B" in shown(screen), "both tables"
        )
        headings = ["run", "status", "step", "loss", "val", "bits/B", "age", "▼"]
        await until_true(lambda: first_line_with(screen, "run  ").split() == headings, "the columns that are needed")
        cells = first_line_with(screen, "✓").split()
        assert cells[:-1] == ["shakespeare-…with-rope-12", "✓", "finished", "400/500", "2.000", "2.100", "1.050"]
        details = str(screen.query_one("#run-details", Static).render())
        assert f"corpus {corpus}" in details and "parameters 123.5k" in details
        for table in (screen.runs_table, screen.checkpoint_table):
            assert table.virtual_size.width <= table.outer_size.width
        await pilot.press("s", "s", "s", "s", "s", "s", "s")
        assert screen.runs_table.sort_by == "parameters"
        await until_true(lambda: "params ▼" in shown(screen), "the column that is sorted by")
        await pilot.resize_terminal(120, 40)
        await until_true(lambda: "shakespeare.txt" in first_line_with(screen, "✓"), "the end of the corpus")
        assert "…" in first_line_with(screen, "✓") and "/home" not in first_line_with(screen, "✓")
        await pilot.resize_terminal(240, 60)
        await until_true(lambda: corpus in first_line_with(screen, "✓"), "the whole of the corpus")
        assert "corpus" not in str(screen.query_one("#run-details", Static).render())


async def test_long_names_and_a_long_status_leave_room_for_what_was_measured(tmp_path):
    for number in range(1, 4):
        run = make_run(tmp_path, f"shakespeare-char-with-rope-and-muon-{number}", steps=400, end="")
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 3)
        with run.lock():
            await until_true(lambda: "▶ running" in shown(screen), "the run in training")
            line = first_line_with(screen, "▶ running")
            assert line.split()[-5:-1] == ["400/500", "2.000", "2.100", "1.050"] and "uon-3" in line
            assert screen.runs_table.virtual_size.width <= screen.runs_table.outer_size.width


async def test_where_there_is_room_the_checkpoints_are_next_to_the_runs(tmp_path):
    run = make_run(tmp_path, "alpha-1", steps=4)
    save_fake(run, 4, 2.0)
    async with RunsApp(tmp_path).run_test(size=(160, 50)) as pilot:
        screen = await opened(pilot, 1)
        runs, checkpoints = screen.runs_table, screen.checkpoint_table
        await until_true(lambda: runs.region.bottom <= checkpoints.region.y, "one above the other")
        await pilot.resize_terminal(180, 50)
        await until_true(lambda: runs.region.right <= checkpoints.region.x, "one to the left of the other")
        assert runs.outer_size.height > 40
        await until_true(lambda: "corpus" in shown(screen) and "checked" in shown(screen), "all columns of both")
        for table in (runs, checkpoints):
            assert table.virtual_size.width <= table.outer_size.width


async def test_a_run_in_training_moves(tmp_path):
    run = make_run(tmp_path, "a-1", steps=3, end="")
    async with RunsApp(tmp_path).run_test(size=(120, 30)) as pilot:
        screen = await opened(pilot, 1)
        with run.lock():
            log = run.log()
            log.append(step_logged(4, 0.5))
            log.close()
            await until_true(lambda: screen.current.step == 4, "the fourth step")
            assert screen.current.status == "running here"
            await pilot.press("c", "d", "R")
            stop_first = "stop it before you rename it"
            await until_true(lambda: was_notified(pilot.app, stop_first), stop_first)
            assert pilot.app.sent == [("chat", "a-1@live")], "and a run in training is not deleted"
            assert not isinstance(pilot.app.screen, Ask | AskText)


async def test_filter_sort_and_keys(tmp_path):
    home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(120, 30)) as pilot:
        screen = await opened(pilot, 2)
        await pilot.press("slash", *"pylib", "enter")
        await until_true(lambda: names(screen) == ["alpha-1"])
        assert screen.runs_table.has_focus
        await pilot.press("escape")
        await until_true(lambda: len(names(screen)) == 2)
        assert screen.query_one("#runs-filter", Input).value == ""
        await pilot.press("s")
        assert screen.runs_table.sort_by == "name" and names(screen) == ["alpha-1", "beta-1"]
        await pilot.press("S")
        assert names(screen) == ["beta-1", "alpha-1"]
        await pilot.press("G")
        await until_true(lambda: screen.runs_table.current == "alpha-1")
        await pilot.press("k")
        await until_true(lambda: screen.runs_table.current == "beta-1")


async def test_enter_goes_to_checkpoints_and_to_the_chat(tmp_path):
    home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 2)
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        await pilot.press("c", "t")
        await pilot.press("enter")
        await until_true(lambda: screen.checkpoint_table.has_focus)
        await pilot.press("j", "enter")
        await until_true(lambda: len(pilot.app.sent) == 3)
        assert pilot.app.sent == [("chat", "alpha-1"), ("train", "alpha-1"), ("chat", "alpha-1@2")]
        await pilot.press("escape")
        assert screen.runs_table.has_focus


async def test_pin_verify_copy(tmp_path):
    run = home_with_runs(tmp_path)
    (run.checkpoint_directory / "step-00000002" / "weights.bin").write_bytes(b"x")
    async with RunsApp(tmp_path).run_test(size=(120, 30)) as pilot:
        screen = await opened(pilot, 2)
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        await pilot.press("v")
        checkpoints = lambda: lines_of(screen.checkpoint_table)  # noqa: E731
        await until_true(lambda: "intact" in checkpoints()["4"] and "damaged" in checkpoints()["2"], "both checked")
        await pilot.press("enter", "p")
        assert run.meta()["pins"] == [4]
        await until_true(lambda: "pinned" in checkpoints()["4"], "the pin")
        await pilot.press("y")
        assert pilot.app.clipboard.endswith("step-00000004")


async def test_a_damaged_checkpoint_is_listed_with_the_reason(tmp_path):
    run = home_with_runs(tmp_path)
    (run.checkpoint_directory / "step-00000004" / "manifest.json").write_text("{")
    async with RunsApp(tmp_path).run_test(size=(120, 30)) as pilot:
        screen = await opened(pilot, 2)
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        assert screen.checkpoint_table.keys == ["damaged 4", "2"]
        assert "damaged" in lines_of(screen.checkpoint_table)["damaged 4"]
        assert "checkpoint 4: " in str(screen.query_one("#run-details", Static).render())
        await pilot.press("enter", "c", "f", "d", "v")
        await until_true(lambda: was_notified(pilot.app, "manifest.json"))
        assert pilot.app.screen is screen and pilot.app.sent == [], "nothing is done with it"


async def test_deleting_asks_and_says_what_is_lost(tmp_path):
    run = home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 2)
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        await pilot.press("d")
        await until_true(lambda: isinstance(pilot.app.screen, Ask))
        assert "all 2 checkpoints" in pilot.app.screen.question
        await pilot.press("enter")
        await until_true(lambda: pilot.app.screen is screen)
        assert run.path.exists(), "the answer that is preselected keeps it"
        await pilot.press("d")
        await until_true(lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("down", "enter")
        await until_true(lambda: names(screen) == ["beta-1"], "one run left")
        assert not run.path.exists()


async def test_deleting_a_checkpoint_says_how_many_are_left(tmp_path):
    home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 2)
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        await pilot.press("enter", "d")
        await until_true(lambda: isinstance(pilot.app.screen, Ask))
        assert pilot.app.screen.question.endswith("; 1 checkpoint remains.")


async def test_exporting_again_keeps_the_table_of_before(tmp_path):
    home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 2)
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        first, second = (tmp_path / "exports" / f"alpha-1{number}.csv" for number in ("", "-2"))
        await pilot.press("e")
        await until_true(first.exists, "the first table")
        first.write_text("mine")
        await pilot.press("e")
        await until_true(second.exists, "the second table")
        assert first.read_text() == "mine"


async def test_notes_rename_resume(tmp_path):
    home_with_runs(tmp_path)
    started = []
    app = RunsApp(tmp_path)
    app.training.begin = lambda run, overrides=(): started.append((run.name, overrides)) or True
    async with app.run_test(size=(120, 30)) as pilot:
        screen = await opened(pilot, 2)
        screen.runs_table.select_key("beta-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "beta-1")
        await pilot.press("n")
        await until_true(lambda: isinstance(app.screen, AskText))
        await pilot.press(*"[b]x", "enter")
        await until_true(lambda: screen.current is not None and screen.current.notes == "[b]x")
        await pilot.press("r")
        await until_true(lambda: started == [("beta-1", ())])
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        await pilot.press("r")
        await until_true(lambda: isinstance(app.screen, AskText))
        await pilot.press("enter")
        await until_true(lambda: len(started) == 2 or type(app.screen) is Ask)  # torch is loaded meanwhile
        if len(started) < 2:
            await pilot.press("enter")
        await until_true(lambda: len(started) == 2)
        assert started[1] == ("alpha-1", (("train.steps", "1000"),))
        await pilot.press("R")
        await until_true(lambda: isinstance(app.screen, AskText))
        for wrong, problem in (("beta-1", "exists already"), ("../x", "../x")):
            app.screen.query_one(Input).value = wrong
            await until_true(
                lambda problem=problem: problem in str(app.screen.query_one(".dialog-problem").render()), problem
            )
            await pilot.press("enter")
            assert isinstance(app.screen, AskText)
        app.screen.query_one(Input).value = "gamma"
        await pilot.press("enter")
        await until_true(lambda: "gamma" in names(screen))


async def test_a_run_deleted_under_the_screen(tmp_path):
    """Whatever is pressed before the screen has noticed: nothing crashes, and nothing of the run is made again."""
    run = home_with_runs(tmp_path)
    app = RunsApp(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, 2)
        screen.loader.read = lambda: None  # the screen does not notice
        screen.runs_table.select_key("alpha-1")
        await until_true(lambda: screen.checkpoint_table.run_name == "alpha-1")
        run.path.rename(tmp_path / "elsewhere")
        for key in ("p", "v", "y", "c", "t", "Q", "f", "e", "space", "o", "escape", "r", "escape"):
            await pilot.press(key)
            await pilot.pause()
        for key, answer in (("n", "a note"), ("T", "tag"), ("R", "other"), ("d", "")):
            await pilot.press(key)
            await until_true(lambda: isinstance(app.screen, Ask | AskText))
            if answer:
                app.screen.query_one(Input).value = answer
            await pilot.press(*([] if answer else ["down"]), "enter")
            await until_true(lambda: app.screen is screen)
        assert not run.path.exists(), "nothing of it is made again"
        assert not was_notified(app, "Traceback")
        del screen.loader.read
        screen.reload()
        await until_true(lambda: names(screen) == ["beta-1"])
        assert screen.checkpoint_table.run_name == "beta-1"


async def test_tiny_terminal(tmp_path):
    home_with_runs(tmp_path)
    async with RunsApp(tmp_path).run_test(size=(80, 24)) as pilot:
        await opened(pilot, 2)
        for size in ((1, 1), (20, 5), (200, 60)):
            await pilot.resize_terminal(*size)
            await pilot.pause()


async def test_reading_slowly_leaves_the_cursor_on_the_list(tmp_path, monkeypatch):
    make_run(tmp_path, "alone-1", steps=3)
    report, go_on, refresh = threading.Event(), threading.Event(), RunCatalog.refresh

    def slowly(catalog, progress):
        while not go_on.wait(0.05):
            if report.is_set():
                progress(1, 900)
        return refresh(catalog)

    monkeypatch.setattr(RunCatalog, "refresh", slowly)
    app = RunsApp(tmp_path)
    async with app.run_test(size=(160, 50)) as pilot:
        screen = app.screen
        await pilot.pause(0.3)
        assert screen.runs_table.has_focus and "No runs yet" not in shown(screen), "that is not known yet"
        report.set()
        await until_true(lambda: "Reading 900 runs" in shown(screen))
        go_on.set()
        await until_true(lambda: "alone-1" in shown(screen) and screen.runs_table.has_focus)
