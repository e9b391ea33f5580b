"""Commissioning: turn what a clinic measures in water into a photon machine model, and say how well it fits.

One quantity after the other, each from the measurement that decides it: the spectrum from depth doses, the profile of
the open beam from the widest lateral scan, the focal spot from penumbras, the extra-focal source from output factors,
contaminant electrons from what is missing in the build-up. Every prediction is the collapsed cone engine's own dose in
a water phantom. What no measurement decides keeps the value of the machine it starts from, and a notice says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from doseeng.backend import Backend
from doseeng.cpu import CpuBackend
from doseeng.errors import MachineError, Notice
from doseeng.machines.pencilmodes import modes_of
from doseeng.machines.photonmodel import Array, PhotonMachine
from doseeng.machines.pointkernels import cones_of
from doseeng.machines.scandata import OutputFactor, Scan
from doseeng.machines.scans import Measurements
from doseeng.photonfield import PHANTOM_MM, FieldDose, open_field
from doseeng.photonkernels import transport_tables
from doseeng.photonlevels import Algorithm

ENERGIES: Final = 40
"""Bins of a fitted spectrum."""
BUILD_UP_MM: Final = 20.0
"""Depth doses tell the spectrum from here on, and contaminant electrons before."""
USUAL_SHAPE: Final = (1.5, 2.5)
"""Rise and fall of the spectra of linear accelerators, which few measured points may not move far."""
SHAPE_WEIGHT: Final = 0.004
"""How much a doubling of rise or fall counts, over a relative deviation of the dose."""
PROFILE_STEP_MM: Final = 20.0
INSIDE: Final = 0.85
"""The open beam's profile is read from this share of the field, where no penumbra reaches."""
PROFILE_ROUNDS: Final = 3
THREADS: Final = 2
"""Sums of dose round differently on other numbers of threads; on these a machine is the same on every computer."""
FINE_MM: Final = 1.5
"""Rays for penumbras."""


@dataclass(frozen=True, slots=True)
class Residual:
    """How a measurement and the model agree, both at the same scale.

    what: of the measurement. worst_percent, rms_percent: of the local dose beyond build-up for depth doses, of the axis
    inside the field for profiles, of the factor for output factors. penumbra_mm: 80-20 width of the model over the
    measured one, None where there is none.
    """

    what: str
    worst_percent: float
    rms_percent: float
    penumbra_mm: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A scan and the model along it at one scale: percent of the largest measured dose for a depth dose, of the dose on
    the axis for a profile.

    measured, model (n,): at the points of the scan. model_scale: percent over the model's own dose. judged (n,): which
    points a residual counts, those beyond build-up and those well inside the field. penumbra_mm: 80-20 width measured
    and of the model, None where the scan does not cross both levels.
    """

    scan: Scan
    measured: Array
    model: Array
    model_scale: float
    judged: npt.NDArray[np.bool_]
    penumbra_mm: tuple[float, float] | None

    @property
    def off_percent(self) -> Array:
        """(n,) model less measured: of the local dose for a depth dose, NaN without any, of the axis for a profile."""
        off = self.model - self.measured
        if self.scan.kind != "depth":
            return off
        return 100.0 * np.divide(off, self.measured, out=np.full_like(off, np.nan), where=self.measured > 0)


class Fields:
    """Open fields of one machine, each computed once."""

    def __init__(self, machine: PhotonMachine, backend: Backend, pitch_mm: float = 2.5) -> None:
        self.machine, self.backend, self.pitch_mm = machine, backend, pitch_mm
        self._known: dict[tuple[tuple[float, float], float], FieldDose] = {}

    def of(self, field_mm: tuple[float, float], ssd_mm: float) -> FieldDose:
        key = (field_mm, ssd_mm)
        if key not in self._known:
            pitch = self.pitch_mm if max(field_mm) <= 200.0 else 2.0 * self.pitch_mm
            self._known[key] = open_field(
                self.machine, field_mm, ssd_mm, Algorithm.COLLAPSED_CONE, self.backend, pitch_mm=pitch
            )
        return self._known[key]

    def along(self, scan: Scan) -> Array:
        """The model's dose at the points of a scan."""
        field, at = self.of(scan.field_mm, scan.ssd_mm), scan.position_mm
        if scan.depth_mm is None:
            return field.at(at)
        across = {"profile-x": (1.0, 0.0), "profile-y": (0.0, 1.0), "diagonal": (np.sqrt(0.5), np.sqrt(0.5))}[scan.kind]
        return field.at(scan.depth_mm, across[0] * at, across[1] * at)

    def factor(self, of: OutputFactor) -> float:
        """The model's output factor."""
        side = self.machine.reference.field_mm
        reference = self.of((side, side), of.ssd_mm).at(of.depth_mm)
        return float(self.of(of.field_mm, of.ssd_mm).at(of.depth_mm) / reference)


def commission_photon(
    measured: Measurements,
    start: PhotonMachine,
    progress: Callable[[str, int, int], None] | None = None,
    backend: Backend | None = None,
) -> tuple[PhotonMachine, tuple[Residual, ...], tuple[Notice, ...]]:
    """A machine fitted to measurements, what is left between them, and what no measurement decided.

    start: name, geometry, collimators, reference condition and first values. progress: takes the stage that begins,
    how many are done and how many there are. MachineError without any usable depth dose.
    """
    measured = usable(measured)
    depth_doses = [s for s in measured.scans if s.kind == "depth"]
    profiles = [s for s in measured.scans if s.kind != "depth"]
    if not depth_doses:
        raise MachineError(
            "no depth dose that can be used among the scans: the spectrum cannot be found; measure at least one field"
            + "".join(f"\n  {notice.where}: {notice.message}" for notice in measured.notices)
        )
    backend = backend or CpuBackend(THREADS)
    stages: list[tuple[str, bool, Callable[[PhotonMachine], PhotonMachine]]] = [
        ("spectrum", True, lambda m: _fit_spectrum(m, depth_doses, backend)),
        ("profile of the open beam", bool(profiles), lambda m: _fit_profile(m, profiles, backend)),
        ("focal spot", bool(_with_penumbra(profiles)), lambda m: _fit_focus(m, profiles, backend)),
        ("extra-focal source", len(measured.output_factors) > 2,
         lambda m: _fit_head(m, measured.output_factors, backend)),
        ("contaminant electrons", _has_build_up(depth_doses), lambda m: _fit_electrons(m, depth_doses, backend)),
    ]  # fmt: skip
    machine, notices = start, list(measured.notices)
    for done, (what, decided, fit) in enumerate(stages):
        if progress is not None:
            progress(what, done, len(stages))
        if decided:
            machine = fit(machine)
        else:
            notices.append(Notice("kept-from-start", what, f"no measurement decides it; taken from '{start.name}'"))
    tables = transport_tables(machine)
    modes = modes_of(machine.cones, tables.primary.astype(np.float64), tables.scatter.astype(np.float64))
    machine = replace(machine, modes=modes)
    return machine, residuals(machine, measured, backend), tuple(notices)


def with_spectrum(machine: PhotonMachine, rise: float, fall: float) -> PhotonMachine:
    """The machine with an energy fluence of E^rise (1 - E / E_nominal)^fall, and its kernel."""
    energy = np.round((np.arange(ENERGIES) + 0.5) / ENERGIES * machine.energy_mv, 6)
    weight = energy**rise * (1.0 - energy / machine.energy_mv) ** fall
    weight /= weight.sum()
    return replace(machine, spectrum_mev=energy, spectrum_weight=weight, cones=cones_of(energy, weight))


def residuals(machine: PhotonMachine, measured: Measurements, backend: Backend) -> tuple[Residual, ...]:
    """What is left between a machine and measurements."""
    fields = Fields(machine, backend, FINE_MM)
    found = [_residual(fields, scan) for scan in measured.scans]
    for of in measured.output_factors:
        percent = 100.0 * (fields.factor(of) / of.factor - 1.0)
        found.append(Residual(f"output factor {_size(of.field_mm)}", percent, abs(percent)))
    return tuple(found)


def compared(fields: Fields, scan: Scan) -> Compared:
    """A scan and the model along it: a depth dose scaled to agree on the average beyond build-up, a profile on the
    axis."""
    model, at = fields.along(scan), scan.position_mm
    if scan.depth_mm is None:
        judged = at >= BUILD_UP_MM
        scale = 100.0 / scan.dose.max()
        model_scale = float(scale / (model[judged] / scan.dose[judged]).mean())
        return Compared(scan, scan.dose * scale, model * model_scale, model_scale, judged, None)
    half = 0.5 * scan.field_mm[1 if scan.kind == "profile-y" else 0] * (scan.ssd_mm + scan.depth_mm)
    judged = np.abs(at) <= 0.8 * half / fields.machine.source_axis_mm
    model_scale = 100.0 / _on_axis(scan, model)
    measured = 100.0 * scan.dose / _on_axis(scan, scan.dose)
    wanted, found = _penumbra_mm(at, scan.dose), _penumbra_mm(at, model)
    penumbra_mm = None if wanted is None or found is None else (wanted, found)
    return Compared(scan, measured, model * model_scale, model_scale, judged, penumbra_mm)


def usable(measured: Measurements) -> Measurements:
    """What a machine can be fitted to: depth doses within the computed phantom that go beyond build-up, and profiles
    that hold the axis; a notice names every scan and point that is left out."""
    scans, notices = [], list(measured.notices)
    for scan in measured.scans:
        where = f"{scan.file}, {scan.kind} {_size(scan.field_mm)}"
        inside = np.ones(len(scan.position_mm), dtype=np.bool_)
        if scan.depth_mm is None:
            inside = (scan.position_mm >= 0.0) & (scan.position_mm <= PHANTOM_MM)
        kept = replace(scan, position_mm=scan.position_mm[inside], dose=scan.dose[inside])
        if problem := _problem(kept):
            notices.append(Notice("scan-left-out", where, problem))
            continue
        scans.append(kept)
        if not inside.all():
            text = f"{np.count_nonzero(~inside)} points are not within 0 to {PHANTOM_MM:g} mm of water"
            notices.append(Notice("points-left-out", where, text))
    return Measurements(tuple(scans), measured.output_factors, tuple(notices))


def _problem(scan: Scan) -> str:
    """Why nothing can be fitted to a scan, "" when something can."""
    at, dose = scan.position_mm, scan.dose
    if scan.depth_mm is None:
        deep = dose[at >= BUILD_UP_MM]
        is_usable = len(deep) >= 2 and deep.min() > 0
        return "" if is_usable else f"expected dose at two points or more from {BUILD_UP_MM:g} mm on"
    if scan.depth_mm > PHANTOM_MM:
        return f"is {scan.depth_mm:g} mm deep; the computed phantom ends at {PHANTOM_MM:g} mm"
    holds_axis = at[0] <= 0.0 <= at[-1] and np.abs(at).min() <= 0.1 * min(scan.field_mm)
    if holds_axis and _on_axis(scan, dose) > 0:
        return ""
    return "expected dose on the axis, to which a profile is normalised"


def adjusted(
    machine: PhotonMachine, ratio: float, leaf_gap_mm: float | None = None, leaves: Collection[str] = ()
) -> PhotonMachine:
    """The machine with `ratio` times its dose per monitor unit, and leaf_gap_mm between opposed closed ends of the
    leaves with these ids. MachineError for leaves that it does not have."""
    for missing in sorted(set(leaves) - {leaf.id for leaf in machine.leaves}):
        raise MachineError(f"machine '{machine.name}' has no leaves '{missing}'")
    reference = replace(machine.reference, gy_per_mu=machine.reference.gy_per_mu * ratio)
    if leaf_gap_mm is None:
        return replace(machine, reference=reference)
    models = (replace(m, tip_offset_mm=0.5 * leaf_gap_mm) if m.id in leaves else m for m in machine.leaves)
    return replace(machine, reference=reference, leaves=tuple(models))


def _fit_spectrum(machine: PhotonMachine, scans: list[Scan], backend: Backend) -> PhotonMachine:
    def error(logs: Array) -> Array:
        fields = Fields(with_spectrum(machine, *np.exp(logs)), backend)
        parts = []
        for scan in scans:
            deep = scan.position_mm >= BUILD_UP_MM
            model = fields.along(scan)[deep] / scan.dose[deep]
            parts.append((model / model.mean() - 1.0) / np.sqrt(deep.sum()))
        return np.concatenate([*parts, SHAPE_WEIGHT * (logs - np.log(USUAL_SHAPE))])

    found = least_squares(error, np.log(USUAL_SHAPE), diff_step=0.03, xtol=1e-3, ftol=1e-4)
    return with_spectrum(machine, *np.exp(found.x))


def _fit_profile(machine: PhotonMachine, scans: list[Scan], backend: Backend) -> PhotonMachine:
    """Multiply the profile by what the widest scans say is missing, until it stays."""
    widest = max(max(s.field_mm) for s in scans)
    wide = [s for s in scans if max(s.field_mm) == widest]
    shallow = [s for s in wide if s.depth_mm == min(w.depth_mm or 0.0 for w in wide)]
    radius = np.arange(0.0, max(_reach_mm(s) for s in shallow), PROFILE_STEP_MM)
    profile = np.interp(radius, machine.profile_mm, machine.profile)
    for _ in range(PROFILE_ROUNDS):
        fields = Fields(replace(machine, profile_mm=radius, profile=profile), backend)
        at, ratio = [], []
        for scan in shallow:
            model = fields.along(scan)
            from_axis = np.abs(scan.position_mm) * machine.source_axis_mm / (scan.ssd_mm + (scan.depth_mm or 0.0))
            inside = from_axis <= _reach_mm(scan)
            at.append(from_axis[inside])
            ratio.append(((scan.dose / _on_axis(scan, scan.dose)) / (model / _on_axis(scan, model)))[inside])
        profile = profile * _smoothed(radius, np.concatenate(at), np.concatenate(ratio))
        profile = profile / profile[0]
    return replace(machine, profile_mm=radius, profile=profile)


def _reach_mm(scan: Scan) -> float:
    """How far from the axis, in the isocentre plane, a profile tells the open beam."""
    x, y = scan.field_mm
    side = {"profile-x": x, "profile-y": y, "diagonal": np.sqrt(2.0) * min(x, y)}[scan.kind]
    return float(INSIDE * 0.5 * side)


def _smoothed(nodes: Array, at: Array, values: Array) -> Array:
    """Values at equally spaced nodes: means of what is nearest to each, interpolated where there is nothing."""
    nearest = np.rint(at / PROFILE_STEP_MM).astype(int)
    known = np.array([n for n in range(len(nodes)) if np.any(nearest == n)])
    means = [values[nearest == n].mean() for n in known]
    return np.asarray(np.interp(nodes, nodes[known], means))


def _fit_focus(machine: PhotonMachine, scans: list[Scan], backend: Backend) -> PhotonMachine:
    wanted = _with_penumbra(scans)

    def error(sigma: Array) -> Array:
        head = replace(machine.head, focal_mm=(float(sigma[0]), float(sigma[0])))
        fields = Fields(replace(machine, head=head), backend, FINE_MM)
        return np.array([(_penumbra_mm(s.position_mm, fields.along(s)) or 0.0) - width for s, width in wanted])

    sigma = float(least_squares(error, [1.0], bounds=(0.1, 4.0), diff_step=0.1, xtol=1e-2).x[0])
    return replace(machine, head=replace(machine.head, focal_mm=(sigma, sigma)))


def _with_penumbra(scans: list[Scan]) -> list[tuple[Scan, float]]:
    """The profiles that tell the focal spot, of small fields if there are any, and their penumbras."""
    narrow = [s for s in scans if max(s.field_mm) <= 150.0 and s.kind != "diagonal"] or scans
    widths = [(s, _penumbra_mm(s.position_mm, s.dose)) for s in narrow]
    return [(scan, width) for scan, width in widths if width is not None]


def _fit_head(machine: PhotonMachine, factors: tuple[OutputFactor, ...], backend: Backend) -> PhotonMachine:
    """Share and width of the extra-focal source; fields no wider than the reference tell its share alone."""

    def with_head(values: Array) -> PhotonMachine:
        sigma_mm = float(values[1]) if is_wide else machine.head.scatter_sigma_mm
        return replace(machine, head=replace(machine.head, scatter_share=float(values[0]), scatter_sigma_mm=sigma_mm))

    def error(values: Array) -> Array:
        fields = Fields(with_head(values), backend)
        return np.array([fields.factor(of) / of.factor - 1.0 for of in factors])

    is_wide = any(max(of.field_mm) > 1.5 * machine.reference.field_mm for of in factors)
    start, bounds, scale = np.array([0.06, 20.0]), np.array(((0.0, 5.0), (0.3, 60.0))), np.array([0.02, 5.0])
    n = 2 if is_wide else 1
    found = least_squares(error, start[:n], bounds=bounds[:, :n], x_scale=scale[:n], diff_step=0.1, xtol=1e-3)
    return with_head(found.x)


def _has_build_up(scans: list[Scan]) -> bool:
    return any(np.count_nonzero(s.position_mm < BUILD_UP_MM) >= 4 for s in scans)


def _fit_electrons(machine: PhotonMachine, scans: list[Scan], backend: Backend) -> PhotonMachine:
    shallow = [s for s in scans if _has_build_up([s])]

    def with_electrons(values: Array) -> PhotonMachine:
        electrons = replace(machine.electrons, share=float(values[0]), depth_mm=float(values[1]))
        return replace(machine, electrons=electrons)

    def error(values: Array) -> Array:
        fields = Fields(with_electrons(values), backend)
        parts = []
        for scan in shallow:
            model = fields.along(scan)
            deep = scan.position_mm >= BUILD_UP_MM
            scale = (scan.dose[deep] / model[deep]).mean()
            parts.append(((model * scale - scan.dose) / scan.dose.max())[scan.position_mm < BUILD_UP_MM])
        return np.concatenate(parts)

    found = least_squares(error, [0.1, 8.0], bounds=((0.0, 2.0), (1.0, 40.0)), x_scale=(0.1, 5.0), diff_step=0.1)
    return with_electrons(found.x)


def _residual(fields: Fields, scan: Scan) -> Residual:
    found = compared(fields, scan)
    off = found.off_percent[found.judged]
    depth = "" if scan.depth_mm is None else f", {scan.depth_mm:g} mm deep"
    what = f"{'depth dose' if scan.kind == 'depth' else scan.kind} {_size(scan.field_mm)}{depth}"
    penumbra_mm = found.penumbra_mm[1] - found.penumbra_mm[0] if found.penumbra_mm else None
    return Residual(what, float(off[np.abs(off).argmax()]), float(np.sqrt((off**2).mean())), penumbra_mm)


def _on_axis(scan: Scan, dose: npt.NDArray[np.float64]) -> float:
    return float(np.interp(0.0, scan.position_mm, dose))


def _penumbra_mm(position_mm: Array, dose: Array) -> float | None:
    """Mean 80-20 width of both edges of a profile, relative to its axis; None when it does not cross them."""
    widths = []
    for side in (-1.0, 1.0):
        outward = np.argsort(side * position_mm)
        x, y = side * position_mm[outward], dose[outward] / np.interp(0.0, position_mm, dose)
        x, y = x[x >= 0], y[x >= 0]
        if len(x) < 2 or y.min() > 0.2:
            continue
        crossings = [_crossing(x, y, level) for level in (0.8, 0.2)]
        widths.append(crossings[1] - crossings[0])
    return float(np.mean(widths)) if widths else None


def _crossing(x: Array, y: Array, level: float) -> float:
    """Where y last falls through a level."""
    last = int(np.flatnonzero(y >= level)[-1])
    if last + 1 == len(y):
        return float(x[-1])
    return float(x[last] + (y[last] - level) / (y[last] - y[last + 1]) * (x[last + 1] - x[last]))


def _size(field_mm: tuple[float, float]) -> str:
    return f"{field_mm[0]:g} x {field_mm[1]:g} mm"
