"""The canvas of the report's pictures: where things land, how wide they are, what covers what."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cluster.report.canvas import DASHED, Canvas, Label, Levels, rings

Array = npt.NDArray[np.float64]

COLUMNS_MM = np.arange(-79.0, 80.0, 2.0)
ROWS_MM = np.arange(-39.0, 40.0, 2.0)
PX_PER_MM = 4.0
RAMP = np.broadcast_to(ROWS_MM[:, None], (40, 80)).astype(np.float32)


def canvas(rows_down: bool = True) -> Canvas:
    """80 by 160 mm on 320 by 640 pixels, black."""
    made = Canvas(COLUMNS_MM, ROWS_MM, rows_down=rows_down)
    made.show_grey(np.zeros((40, 80), dtype=np.float32), 0.0, 1.0)
    return made


def pixels(drawn: Canvas) -> Array:
    """(320, 640, 3) as a browser shows them."""
    return np.asarray(Image.open(io.BytesIO(drawn.webp())).convert("RGB"), dtype=float)


def test_ground_runs_from_black_to_white_in_the_direction_of_the_rows() -> None:
    for rows_down in (True, False):
        drawn = canvas(rows_down)
        drawn.show_grey(RAMP, -20.0, 20.0)
        column = pixels(drawn)[:, 320, 0]
        column = column if rows_down else column[::-1]
        assert column[:75].max() < 6
        assert column[-75:].min() > 249
        assert column[160] == pytest.approx(128, abs=5)


def test_ground_in_colours_keeps_them() -> None:
    drawn = canvas()
    drawn.show_colors(np.broadcast_to(np.array([0.2, 0.5, 0.8], dtype=np.float32), (40, 80, 3)))
    assert pixels(drawn)[160, 320] == pytest.approx([51, 128, 204], abs=4)


@pytest.mark.parametrize("rows_down", [True, False])
def test_lines_lie_where_their_mm_are_and_are_as_wide_as_asked(rows_down: bool) -> None:
    drawn = canvas(rows_down)
    drawn.stroke(Levels(COLUMNS_MM, ROWS_MM, RAMP).line(20.0), "white", 3.6)
    light = pixels(drawn)[:, 320, 0] / 255
    middle = float(light @ np.arange(320) / light.sum())
    assert middle == pytest.approx((160 + 20 * PX_PER_MM if rows_down else 160 - 20 * PX_PER_MM) - 0.5, abs=0.5)
    assert light.sum() == pytest.approx(3.6 * 100 / 72, abs=0.5)


def test_dashes_leave_gaps() -> None:
    square = rings([np.array([(-60.0, -20.0), (60.0, -20.0), (60.0, 20.0), (-60.0, 20.0)])])
    solid, dashed = canvas(), canvas()
    solid.stroke(square, "white", 2.0)
    dashed.stroke(square, "white", 2.0, dashes=DASHED)
    assert pixels(dashed).sum() == pytest.approx(4 / 7 * pixels(solid).sum(), rel=0.05)


def test_bands_join_without_a_seam_and_leave_out_what_is_not_known() -> None:
    values = RAMP.copy()
    values[:, 60:] = np.nan
    levels = Levels(COLUMNS_MM, ROWS_MM, values)
    drawn = canvas()
    for low, high in ((-20.0, 0.0), (0.0, 20.0), (20.0, 60.0), (60.0, 80.0)):
        drawn.fill(levels.band(low, high), "white", 0.5)
    shown = pixels(drawn)[..., 0]
    assert shown[90:310, 40:440] == pytest.approx(128, abs=8)
    assert shown[:70].max() < 8
    assert shown[:, 500:].max() < 8


def test_arrows_reach_from_tail_to_tip_and_are_dots_without_length() -> None:
    drawn = canvas()
    drawn.arrows(np.array([(-40.0, 0.0), (40.0, 0.0)]), np.array([(30.0, 10.0), (0.0, 0.0)]))
    rows, columns = np.nonzero(pixels(drawn)[..., 0] > 128)
    arrow, dot = columns < 400, columns >= 400
    assert columns[arrow].min() == pytest.approx(160, abs=3)
    assert columns[arrow].max() == pytest.approx(160 + 30 * PX_PER_MM, abs=4)
    assert rows[arrow].max() == pytest.approx(160 + 10 * PX_PER_MM, abs=4)
    assert 1 <= dot.sum() < 20
    assert columns[dot].mean() == pytest.approx(320 + 40 * PX_PER_MM, abs=2)


def test_scale_bar_is_as_long_as_it_says() -> None:
    drawn = canvas()
    drawn.scale_bar(50.0, (0.25, 0.5))
    columns = np.flatnonzero(pixels(drawn)[..., 0].max(axis=0) > 128)
    assert columns[0] == pytest.approx(160, abs=3)
    assert np.ptp(columns) == pytest.approx(50 * PX_PER_MM, abs=5)


def test_words_stand_where_they_are_placed_and_can_be_read_on_white() -> None:
    drawn = canvas()
    drawn.write(Label("L", (1.0, 0.5), (-12.0, 0.0), 15.0, "bold", in_middle=True))
    rows, columns = np.nonzero(pixels(drawn)[..., 0] > 128)
    assert np.ptp(columns) > 5
    assert (columns.min() + columns.max()) / 2 == pytest.approx(640 - 12 * 100 / 72, abs=2)
    assert rows.mean() == pytest.approx(160, abs=6)
    bright = canvas()
    bright.show_colors(np.ones((40, 80, 3), dtype=np.float32))
    bright.write(Label("5 cm", (0.1, 0.1), (0.0, 5.0), 11.0, "normal", in_middle=False))
    dark = np.nonzero(pixels(bright)[..., 0] < 100)
    assert dark[0].max() <= 320 - 32 - 5
    assert dark[1].min() >= 64 - 3
