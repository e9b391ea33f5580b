"""What a clinic measured in water and what the fitted machine says, as one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from doseeng.backend import Backend
from doseeng.machines.library import beam_quality
from doseeng.machines.photoncommission import BUILD_UP_MM, FINE_MM, Compared, Fields, compared
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.machines.scandata import Kind, Scan
from doseeng.machines.scans import Measurements
from doseeng.photonphysics import mean_energy_mev

Array = npt.NDArray[np.float64]
Sides = tuple[float, float]
Corner = Literal["upper left", "upper right", "lower right", "best"]

_PANEL_INCHES: Final = (6.0, 4.6)
_HEAD_INCHES: Final = 0.75
_MARGINS: Final = {"left": 0.13, "right": 0.97, "bottom": 0.12, "top": 0.93, "hspace": 0.08}
"""Of a panel; fixed, because an arrangement by what is in it differs in the last digits from time to time."""
_DPI: Final = 130
_MOST_POINTS: Final = 45
"""Measured points drawn along a scan: more would hide the line."""
_LINE_MM: Final = 1.0
_SQUARES: Final = 9
"""Fields at which the line of output factors is computed."""
_TOLERANCE_PERCENT: Final = 2.0
_TOLERANCE_MM: Final = 2.0
_LEAST_RESIDUAL_PERCENT: Final = 3.0
"""Half the height of a residual axis, at least: a good fit should look like one."""
_GREY: Final = "0.45"
_TITLES: Final[dict[Kind, str]] = {
    "depth": "Depth dose",
    "profile-x": "Profiles along X",
    "profile-y": "Profiles along Y",
    "diagonal": "Diagonal profiles",
}
_MARKERS: Final[dict[Kind, str]] = {"profile-x": "o", "profile-y": "s", "diagonal": "^"}


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """What the panels share. start: the machine before it was fitted; colors: of fields by their sides."""

    machine: PhotonMachine
    start: PhotonMachine
    fields: Fields
    measured: Measurements
    found: tuple[Compared, ...]
    colors: dict[Sides, Any]

    def of(self, *kinds: Kind) -> list[Compared]:
        return [c for c in self.found if c.scan.kind in kinds]


def write_commissioning(
    path: Path, machine: PhotonMachine, start: PhotonMachine, measured: Measurements, backend: Backend
) -> None:
    """Draw measurements and the machine fitted to them (see `commissioning_figure`) as PNG; same input, same bytes."""
    figure = commissioning_figure(machine, start, measured, backend)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})


def commissioning_figure(
    machine: PhotonMachine, start: PhotonMachine, measured: Measurements, backend: Backend
) -> Figure:
    """Depth doses, profiles and output factors, measured as points and modelled as lines, with their differences;
    penumbras; spectrum and profile of the open beam beside those of `start`. measured: usable scans."""
    fields = Fields(machine, backend, FINE_MM)
    sides = sorted({s.field_mm for s in measured.scans}, key=_equivalent_mm)
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(sides)))
    found = tuple(compared(fields, scan) for scan in measured.scans)
    picture = _Picture(machine, start, fields, measured, found, dict(zip(sides, shades, strict=True)))
    panels: list[Callable[[SubFigure, _Picture], None]] = [_depth_doses]
    panels += [_profiles_along(kind) for kind in _MARKERS if picture.of(kind)]
    if measured.output_factors:
        panels.append(_output_factors)
    if any(c.penumbra_mm for c in found):
        panels.append(_penumbras)
    panels += [_spectrum, _open_beam, _numbers]
    return _arranged(picture, panels)


def _arranged(picture: _Picture, panels: Sequence[Callable[[SubFigure, _Picture], None]]) -> Figure:
    columns = 2 if len(panels) <= 4 else 3
    rows = -(-len(panels) // columns)
    width, height = _PANEL_INCHES
    tall = rows * height + _HEAD_INCHES
    figure = Figure(figsize=(columns * width, tall))
    FigureCanvasAgg(figure)
    ratios = [_HEAD_INCHES, *[height] * rows]
    cells = figure.subfigures(rows + 1, columns, squeeze=False, height_ratios=ratios, wspace=0.0, hspace=0.0)
    for cell, panel in zip(np.asarray(cells)[1:].ravel(), panels, strict=False):
        panel(cell, picture)
    machine, reference = picture.machine, picture.machine.reference
    figure.suptitle(
        f"{machine.name} · {beam_quality(machine)} · {100 * reference.gy_per_mu:.4g} cGy/MU at "
        f"{reference.depth_mm:g} mm depth, SSD {reference.ssd_mm:g} mm, {_size(2 * (reference.field_mm,))}\n"
        f"points: measured · lines: collapsed cone · grey bands: ±{_TOLERANCE_PERCENT:g} %, ±{_TOLERANCE_MM:g} mm",
        fontsize=12,
        y=1.0 - 0.15 / tall,
    )
    return figure


def _depth_doses(cell: SubFigure, picture: _Picture) -> None:
    upper, lower = _with_residuals(cell, _TITLES["depth"])
    for sides, color in picture.colors.items():
        upper.plot([], [], color=color, lw=1.2, label=_size(sides))
    for c in picture.of("depth"):
        scan, color = c.scan, picture.colors[c.scan.field_mm]
        _points(upper, scan.position_mm, c.measured, color)
        _line(upper, picture.fields, c, color)
        _points(lower, scan.position_mm[c.judged], c.off_percent[c.judged], color, "-")
    upper.set_ylabel("dose / % of measured maximum")
    lower.set_ylabel("model less\nmeasured / %")
    lower.set_xlabel("depth / mm")
    for axes in (upper, lower):
        axes.axvspan(0.0, BUILD_UP_MM, color="0.93", zorder=0)
    upper.set_xlim(left=0.0)
    upper.set_ylim(0.0, 1.05 * upper.dataLim.y1)
    _limit_residuals(lower, [c.off_percent[c.judged] for c in picture.of("depth")])
    _legend(upper, "upper right")


def _profiles_along(kind: Kind) -> Callable[[SubFigure, _Picture], None]:
    def panel(cell: SubFigure, picture: _Picture) -> None:
        depths = ", ".join(f"{d:g}" for d in sorted({c.scan.depth_mm or 0.0 for c in picture.of(kind)}))
        upper, lower = _with_residuals(cell, f"{_TITLES[kind]}, {depths} mm deep")
        for c in picture.of(kind):
            scan, color = c.scan, picture.colors[c.scan.field_mm]
            height = _height(picture, c)
            _points(upper, scan.position_mm, c.measured * height, color)
            _line(upper, picture.fields, c, color, height)
            _points(lower, scan.position_mm, c.off_percent, color)
        upper.set_ylabel("dose / %")
        upper.set_ylim(0.0, 1.05 * upper.dataLim.y1)
        lower.set_ylabel("model less\nmeasured / %")
        lower.set_xlabel("distance from the axis / mm")
        _limit_residuals(lower, [c.off_percent[c.judged] for c in picture.of(kind)])

    return panel


def _height(picture: _Picture, c: Compared) -> float:
    """Draws profiles of a field below each other as its depth dose has them."""
    same = (s for s in picture.measured.scans if (s.field_mm, s.ssd_mm) == (c.scan.field_mm, c.scan.ssd_mm))
    shallowest = min(s.depth_mm for s in same if s.depth_mm is not None)
    on_axis = picture.fields.of(c.scan.field_mm, c.scan.ssd_mm).at([shallowest, c.scan.depth_mm or shallowest])
    return float(on_axis[1] / on_axis[0])


def _output_factors(cell: SubFigure, picture: _Picture) -> None:
    upper, lower = _with_residuals(cell, "Output factors")
    factors = sorted(picture.measured.output_factors, key=lambda of: _equivalent_mm(of.field_mm))
    conditions = list(dict.fromkeys((of.ssd_mm, of.depth_mm) for of in factors))
    shades = colormaps["viridis"](np.linspace(0.0, 0.7, len(conditions)))
    for (ssd_mm, depth_mm), shade in zip(conditions, shades, strict=True):
        group = [of for of in factors if (of.ssd_mm, of.depth_mm) == (ssd_mm, depth_mm)]
        side = np.array([_equivalent_mm(of.field_mm) / 10.0 for of in group])
        measured = np.array([of.factor for of in group])
        model = np.array([picture.fields.factor(of) for of in group])
        squares = np.geomspace(side.min(), side.max(), _SQUARES)
        between = [picture.fields.factor(replace(group[0], field_mm=(10.0 * s, 10.0 * s))) for s in squares]
        upper.plot(side, measured, "o", color=shade, ms=5)
        upper.plot(squares, between, "-", color=shade, lw=1.3, label=f"{depth_mm:g} mm deep, SSD {ssd_mm:g} mm")
        lower.plot(side, 100.0 * (model / measured - 1.0), "o-", color=shade, ms=4, lw=0.8)
    upper.set_ylabel("dose / that of the reference field")
    lower.set_ylabel("model less\nmeasured / %")
    lower.set_xlabel("side of the equivalent square / cm")
    _limit_residuals(lower, [100.0 * (picture.fields.factor(of) / of.factor - 1.0) for of in factors])
    _legend(upper, "lower right")


def _penumbras(cell: SubFigure, picture: _Picture) -> None:
    axes = cell.subplots(gridspec_kw=_MARGINS)
    axes.set_title("Penumbra, 80–20 % of the axis", loc="left", fontsize=11)
    for kind, marker in _MARKERS.items():
        for c in picture.of(kind):
            if c.penumbra_mm:
                axes.plot(*c.penumbra_mm, marker, color=picture.colors[c.scan.field_mm], ms=6, alpha=0.85)
        if any(c.penumbra_mm for c in picture.of(kind)):
            axes.plot([], [], marker, color=_GREY, label=_TITLES[kind])
    widths = np.array([c.penumbra_mm for c in picture.found if c.penumbra_mm])
    ends = np.array([max(0.0, widths.min() - 2.0), widths.max() + 2.0])
    axes.fill_between(ends, ends - _TOLERANCE_MM, ends + _TOLERANCE_MM, color="0.9", zorder=0)
    axes.plot(ends, ends, color=_GREY, lw=0.8)
    axes.set(xlim=ends, ylim=ends, xlabel="measured / mm", ylabel="model / mm", aspect="equal")
    _legend(axes, "upper left")


def _spectrum(cell: SubFigure, picture: _Picture) -> None:
    axes = cell.subplots(gridspec_kw=_MARGINS)
    axes.set_title("Spectrum on the axis", loc="left", fontsize=11)
    for machine, style, color in ((picture.start, ":", _GREY), (picture.machine, "-", "C0")):
        energy, weight = machine.spectrum_mev, machine.spectrum_weight
        mean = mean_energy_mev(energy, weight)
        density = weight / np.gradient(energy)
        axes.plot(energy, density, style, color=color, lw=1.6, label=f"{machine.name}, mean {mean:.2f} MeV")
    axes.set(xlabel="photon energy / MeV", ylabel="energy fluence / per MeV")
    axes.set_xlim(left=0.0)
    axes.set_ylim(bottom=0.0)
    _legend(axes, "upper right")


def _open_beam(cell: SubFigure, picture: _Picture) -> None:
    axes = cell.subplots(gridspec_kw=_MARGINS)
    axes.set_title("Open beam in air", loc="left", fontsize=11)
    for machine, style, color in ((picture.start, ":", _GREY), (picture.machine, "-", "C0")):
        axes.plot(machine.profile_mm / 10.0, machine.profile, style, color=color, lw=1.6, label=machine.name)
    axes.set(xlabel="distance from the axis in the isocentre plane / cm", ylabel="energy fluence / that on the axis")
    axes.set_xlim(left=0.0)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.9), max(high, 1.1))
    _legend(axes, "best")


def _numbers(cell: SubFigure, picture: _Picture) -> None:
    axes = cell.subplots(gridspec_kw=_MARGINS)
    axes.set_axis_off()
    axes.set_title("What was fitted, and from what", loc="left", fontsize=11)
    columns = [_fitted(machine) for machine in (picture.start, picture.machine)]
    names = ["", picture.start.name, picture.machine.name]
    rows = [[what, *(column[what] for column in columns)] for what in columns[0]]
    table = axes.table(rows, colLabels=names, colWidths=[0.5, 0.25, 0.25], loc="upper center", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1.0, 1.5)


def _fitted(machine: PhotonMachine) -> dict[str, str]:
    head, electrons = machine.head, machine.electrons
    return {
        "mean photon energy / MeV": f"{mean_energy_mev(machine.spectrum_mev, machine.spectrum_weight):.2f}",
        "focal spot σ / mm": f"{head.focal_mm[0]:.2f}",
        "extra-focal share / %": f"{100 * head.scatter_share:.1f}",
        "extra-focal σ / mm": f"{head.scatter_sigma_mm:.1f}",
        "contaminant electrons / %": f"{100 * electrons.share:.1f}",
        "of them 1/e / mm of water": f"{electrons.depth_mm:.1f}",
    }


def _with_residuals(cell: SubFigure, title: str) -> tuple[Axes, Axes]:
    """A large plot and one of differences below it, which share their horizontal axis."""
    upper, lower = cell.subplots(2, 1, sharex=True, height_ratios=(3.0, 1.0), gridspec_kw=_MARGINS)
    upper.set_title(title, loc="left", fontsize=11)
    upper.grid(color="0.9", lw=0.5)
    lower.axhspan(-_TOLERANCE_PERCENT, _TOLERANCE_PERCENT, color="0.9", zorder=0)
    lower.axhline(0.0, color=_GREY, lw=0.8, zorder=1)
    lower.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], symmetric=True))
    return upper, lower


def _points(axes: Axes, x: Array, y: Array, color: Any, style: str = "none") -> None:
    every = max(1, len(x) // _MOST_POINTS)
    axes.plot(x, y, marker="o", linestyle=style, color=color, ms=3.2, lw=0.7, mew=0, markevery=every)


def _line(axes: Axes, fields: Fields, c: Compared, color: Any, height: float = 1.0) -> None:
    """The model between the points of a scan."""
    at = c.scan.position_mm
    fine: Scan = replace(c.scan, position_mm=np.linspace(at[0], at[-1], int((at[-1] - at[0]) / _LINE_MM) + 2))
    axes.plot(fine.position_mm, fields.along(fine) * c.model_scale * height, color=color, lw=1.2)


def _limit_residuals(axes: Axes, off_percent: Iterable[npt.ArrayLike]) -> None:
    """Wide enough for what is judged; penumbras may leave the plot."""
    worst = max(float(np.abs(off).max()) for off in off_percent)
    half = max(_LEAST_RESIDUAL_PERCENT, 1.2 * worst)
    axes.set_ylim(-half, half)


def _legend(axes: Axes, where: Corner) -> None:
    axes.legend(loc=where, fontsize=8, frameon=False, labelspacing=0.25)


def _equivalent_mm(field_mm: Sides) -> float:
    """Side of the square field that scatters as much: 2 x y / (x + y) (Sterling et al., Br J Radiol 37 (1964) 544)."""
    x, y = field_mm
    return 2.0 * x * y / (x + y)


def _size(field_mm: Sides) -> str:
    return f"{field_mm[0] / 10:g} × {field_mm[1] / 10:g} cm"
