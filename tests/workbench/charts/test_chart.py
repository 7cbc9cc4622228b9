"""The chart in a real (headless) app: what it shows, and what its keys do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rich.cells import cell_len
from textual.app import App

from workbench.charts.chart import Chart, Level, Mark, Series
from workbench.charts.drawing import Curve, Scene, draw
from workbench.charts.legend import Entry, lines_of, shorten


class Host(App[None]):
    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.seen = []

    def compose(self):
        yield Chart("Loss", **self.options)

    @property
    def chart(self):
        return self.query_one(Chart)

    def on_chart_maximize_requested(self, message):
        self.seen.append("maximize")

    def on_chart_view_changed(self, message):
        self.seen.append(message.view)

    def on_chart_cursor_moved(self, message):
        self.seen.append(message.x)


def shown(chart):
    return "\n".join(chart.render_line(y).text for y in range(chart.size.height))


def line(count=1001, name="train"):
    x = np.arange(count)
    return Series(name, x, 5.0 - 4.0 * x / max(1, count - 1))


async def test_empty_state_then_curve():
    app = Host()
    async with app.run_test(size=(60, 16)):
        assert "waiting for the first step" in shown(app.chart)
        app.chart.set_data([line()])
        text = shown(app.chart)
        assert "train 1.000" in text and "waiting" not in text
        assert any("\u2800" < glyph <= "\u28ff" for glyph in text)
        assert "1k" in text and "└" in text


async def test_one_point_is_drawn():
    app = Host()
    async with app.run_test(size=(40, 12)):
        app.chart.set_data([Series("train", np.array([1]), np.array([2.5]))])
        assert sum("\u2800" < glyph <= "\u28ff" for glyph in shown(app.chart)) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
async def test_values_that_are_not_finite_are_gaps(bad):
    app = Host()
    async with app.run_test(size=(60, 16)):
        y = np.ones(100)
        y[40:60] = bad
        app.chart.set_data([Series("train", np.arange(100), y)])
        canvas = [app.chart.render_line(y).text for y in range(1, app.chart.size.height - 2)]
        drawn = next(row for row in canvas if "\u2800" < row[10] <= "\u28ff")
        assert drawn[28] == " " and "\u2800" < drawn[-1] <= "\u28ff"
        app.chart.set_data([Series("train", np.arange(100), np.full(100, bad))])
        assert "—" in shown(app.chart)


async def test_log_axis_leaves_out_what_has_no_logarithm():
    app = Host()
    async with app.run_test(size=(60, 20)) as pilot:
        app.chart.focus()
        app.chart.set_data([Series("x", np.arange(6), np.array([0.0, -1.0, 0.01, 0.1, 1.0, 10.0]))])
        await pilot.press("y")
        assert app.chart.log_axis
        text = shown(app.chart)
        assert "0.1" in text and "10" in text and "-1" not in text


async def test_zoom_pan_reset_follow():
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        chart = app.chart
        chart.focus()
        chart.set_data([line()])
        await pilot.press("plus")
        assert chart.view == (250, 750)
        await pilot.press("left")
        assert chart.view == (125, 625)
        chart.set_data([line(2001)])
        assert chart.view == (125, 625), "a zoomed chart stays where it is"
        await pilot.press("end")
        assert chart.view == (1500, 2000)
        chart.set_data([line(3001)])
        assert chart.view == (2500, 3000), "at the end it follows"
        assert "following" in chart.border_subtitle
        await pilot.press("0")
        assert chart.view is None and chart.extent() == (0, 3000)
        assert app.seen[-1] is None
        await pilot.press("minus")
        assert chart.view is None, "there is nothing beyond all"


async def test_cursor_reads_out_values_and_marks():
    app = Host(x_unit="step")
    async with app.run_test(size=(100, 24)) as pilot:
        chart = app.chart
        chart.focus()
        x = np.arange(0, 1000, 100)
        chart.set_data(
            [line(901), Series("validation", x, x / 100.0, "accent", "points")], [Mark(0, "best 1.0", "best")]
        )
        await pilot.press("full_stop")
        assert chart.cursor == 0 and app.seen[-1] == 0
        assert "step 0  ━ train 5.000  ● validation 0" in shown(chart) and "★ best 1.0" in shown(chart)
        await pilot.press("full_stop")
        assert 0 < chart.cursor < 20
        chart.cursor = 350.0
        assert "validation 3.000" in shown(chart), "the last evaluation before the cursor"
        assert sum(chart.render_line(y).text.count("│") for y in range(24)) > 5
        await pilot.press("backspace")
        assert chart.cursor is None and app.seen[-1] is None


async def test_the_mouse_puts_the_cursor_where_it_points():
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        app.chart.set_data([line()])
        shown(app.chart)
        await pilot.click(Chart, offset=(79 - 1, 12))
        assert app.chart.cursor == pytest.approx(1000, abs=15)
        await pilot.click(Chart, offset=(42, 12))
        assert app.chart.cursor == pytest.approx(500, abs=30)


async def test_cursor_without_data_does_nothing():
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        app.chart.focus()
        await pilot.press("full_stop", "plus", "right", "end", "0", "y")
        assert app.chart.cursor is None


async def test_smoothing_draws_the_raw_curve_under_it():
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        chart = app.chart
        chart.focus()
        y = np.where(np.arange(200) % 2, 1.0, 3.0)
        chart.set_data([Series("train", np.arange(200), y)])
        await pilot.press("right_square_bracket", "right_square_bracket", "right_square_bracket")
        assert chart.smoothing == 0.9
        assert "train 1.947 (1.000)" in shown(chart)
        styles = {segment.style for row in range(24) for segment in chart.render_line(row)}
        assert any(style and style.dim for style in styles)
        await pilot.press("left_square_bracket", "left_square_bracket", "left_square_bracket")
        assert chart.smoothing == 0


async def test_single_points_are_drawn_where_they_are_and_nowhere_else():
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        app.chart.focus()
        x = np.arange(0, 1001, 100)
        app.chart.set_data([line(), Series("validation", x, 5.2 - 4.0 * x / 1000, "accent", "points")])
        await pilot.press("plus")
        assert app.chart.view == (250, 750)
        await until_drawn(pilot, app.chart)
        text = "\n".join(shown(app.chart).splitlines()[1:])
        assert text.count("●") == 5, "at 300, 400, 500, 600, 700; none at the borders"


async def until_drawn(pilot, chart):
    await pilot.pause()


async def test_level_line_and_maximise():
    app = Host()
    async with app.run_test(size=(60, 16)) as pilot:
        app.chart.focus()
        app.chart.set_data([Series("norm", np.arange(50), np.linspace(0.5, 0.9, 50))], levels=[Level(1.0, "clip")])
        text = shown(app.chart)
        assert "clip 1.000" in text and text.count("╌") > 20
        await pilot.press("m")
        assert "maximize" in app.seen


async def test_hostile_names_are_shown_as_text():
    app = Host()
    async with app.run_test(size=(80, 16)):
        app.chart.set_data([line(10, name="[red]\x1b]52;c;evil\x07\n日本")])
        text = shown(app.chart)
        assert "[red]␛]52;c;evil␇␊日本" in text and "\x1b" not in text
        assert all(
            app.chart.render_line(row).cell_length == app.chart.size.width for row in range(app.chart.size.height)
        )


@pytest.mark.parametrize("no_color", [False, True])
async def test_lines_differ_without_color(no_color, monkeypatch):
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    app = Host()
    async with app.run_test(size=(60, 16)):
        app.chart.set_data([line(), Series("other", np.arange(1001), np.ones(1001) * 2, "accent")])
        assert ("+ other" in shown(app.chart)) is no_color


@pytest.mark.parametrize("width", [0, 1, 2, 3, 7, 15, 16, 17, 80])
@pytest.mark.parametrize("height", [0, 1, 2, 3, 4, 5, 24])
def test_any_size_is_drawn_without_a_crash(width, height):
    x = np.arange(300.0)
    scene = Scene([Curve(x, np.sin(x), "primary"), Curve(x[::50], x[::50], "accent", "●", False)], 0, 299, cursor=7.0)
    rows = draw(scene, width, height).rows
    assert len(rows) == height and all(len(row) == width for row in rows)


async def test_resize_storm():
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        app.chart.set_data([line()], [Mark(3, "saved", "save")])
        for size in [(1, 1), (200, 60), (3, 3), (17, 5), (1, 60), (200, 1), (80, 24)]:
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert "train" in shown(app.chart)


def noise(kind, count=1_000_000):
    rng = np.random.default_rng(0)
    spread = rng.exponential(size=count)
    return spread if kind == "noise" else 6 * np.exp(-np.arange(count) / count * 9) + spread * 0.02 + 1


def test_a_dense_curve_shows_the_extremes_of_every_column():
    values = noise("noise", 20_011)
    x = np.arange(20_011.0)
    frame = draw(Scene([Curve(x, values, "primary")], 0, 20_010), 60, 20)
    column = [row[frame.left + 30].glyph for row in frame.rows[:-2]]
    dots = "".join(
        f"{sum(bool((ord(glyph) - 0x2800) & bit) for bit in (1, 2, 4, 64))}" if glyph > "\u2800" else "0"
        for glyph in column
    )
    inside = values[(x >= 20_010 * 30.5 / frame.columns - 180) & (x <= 20_010 * 30.5 / frame.columns + 180)]
    low, high = values.min(), values.max()
    air = (high - low) * 0.03
    height = (inside.max() - inside.min()) / (high - low + 2 * air) * len(column) * 4
    assert sum(map(int, dots)) == pytest.approx(height, abs=4)
    assert "4" in dots and dots.strip("0").strip("123").strip("4") == "", "one solid stroke"


def runs_of(count):
    x = np.arange(100)
    return [Series(f"shakespeare-char-with-rope-{n}", x, x + n, smooth=False) for n in range(1, count + 1)]


async def test_the_legend_takes_as_many_lines_as_it_needs():
    app = Host()
    async with app.run_test(size=(80, 24)):
        app.chart.set_data(runs_of(5))
        text = shown(app.chart)
        for number in range(1, 6):
            assert f"shakespeare-char-with-rope-{number} {99 + number}.0" in text
        assert all(len(line) == app.chart.size.width for line in text.splitlines())


async def test_a_legend_without_room_shortens_names_and_counts_the_rest():
    app = Host()
    async with app.run_test(size=(50, 11)):
        app.chart.set_data(runs_of(5), [Mark(50, "saved here", "save")])
        text = shown(app.chart)
        assert "shakesp…h-rope-1 100.0" in text and "… and 2 more" in text
        app.chart.cursor = 50.0
        text = shown(app.chart)
        assert "step 50" in text and "▪ saved here" in text and "more" in text


def test_a_legend_is_never_wider_or_higher_than_its_place():
    for count in range(8):
        entries = [
            Entry(("━", "primary"), "名前" * count + f"-run-{n}", "cursor", "1.234", can_drop=True)
            for n in range(count)
        ]
        for width in range(16, 90, 7):
            for most in range(1, 5):
                lines = lines_of(entries, width, most)
                assert len(lines) <= most
                if count == 1:
                    assert "run-0 1.234" in "".join(text for text, _ in lines[0])


def test_a_name_is_shortened_in_its_middle():
    assert shorten("shakespeare-char-with-rope-12", 16) == "shakesp…-rope-12"
    assert shorten("short", 16) == "short"
    assert cell_len(shorten("名前" * 20, 17)) <= 17
