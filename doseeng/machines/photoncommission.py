"""Commissioning: turn what a clinic measures in water into a photon machine model, and say how well it fits.

One quantity after the other, each from the measurement that decides it: the spectrum from depth doses, the profile of
the open beam from the widest lateral scan, the focal spot from penumbras, the extra-focal source from output factors,
contaminant electrons from what is missing in the build-up. Every prediction is the collapsed cone engine's own dose in
a water phantom. What no measurement decides keeps the value of the machine it starts from, and a notice says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from doseeng.backend import Backend
from doseeng.cpu import cpu
from doseeng.errors import MachineError, Notice
from doseeng.machines.pencilmodes import modes_of
from doseeng.machines.photonmodel import Array, PhotonMachine
from doseeng.machines.pointkernels import cones_of
from doseeng.machines.scandata import OutputFactor, Scan
from doseeng.machines.scans import Measurements
from doseeng.photon import Algorithm
from doseeng.photonfield import FieldDose, open_field
from doseeng.photonkernels import transport_tables

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


class _Fields:
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
    progress: Callable[[int, int], None] | None = None,
    backend: Backend | None = None,
) -> tuple[PhotonMachine, tuple[Residual, ...], tuple[Notice, ...]]:
    """A machine fitted to measurements, what is left between them, and what no measurement decided.

    start: name, geometry, collimators, reference condition and first values. MachineError without any depth dose.
    """
    depth_doses = [s for s in measured.scans if s.kind == "depth"]
    profiles = [s for s in measured.scans if s.kind != "depth"]
    if not depth_doses:
        raise MachineError("no depth dose among the scans: the spectrum cannot be found; measure at least one field")
    backend = backend or cpu()
    stages: list[tuple[str, bool, Callable[[PhotonMachine], PhotonMachine]]] = [
        ("spectrum", True, lambda m: _fit_spectrum(m, depth_doses, backend)),
        ("profile of the open beam", bool(profiles), lambda m: _fit_profile(m, profiles, backend)),
        ("focal spot", bool(profiles), lambda m: _fit_focus(m, profiles, backend)),
        ("extra-focal source", len(measured.output_factors) > 2,
         lambda m: _fit_head(m, measured.output_factors, backend)),
        ("contaminant electrons", _has_build_up(depth_doses), lambda m: _fit_electrons(m, depth_doses, backend)),
    ]  # fmt: skip
    machine, notices = start, list(measured.notices)
    for done, (what, decided, fit) in enumerate(stages):
        if decided:
            machine = fit(machine)
        else:
            notices.append(Notice("kept-from-start", what, f"no measurement decides it; taken from '{start.name}'"))
        if progress is not None:
            progress(done + 1, len(stages))
    tables = transport_tables(machine)
    modes = modes_of(machine.cones, tables.primary.astype(np.float64), tables.scatter.astype(np.float64))
    machine = replace(machine, modes=modes)
    return machine, residuals(machine, measured, backend), tuple(notices)


def with_spectrum(machine: PhotonMachine, rise: float, fall: float) -> PhotonMachine:
    """The machine with an energy fluence of E^rise (1 - E / E_nominal)^fall, and its kernel."""
    energy = (np.arange(ENERGIES) + 0.5) / ENERGIES * machine.energy_mv
    weight = energy**rise * (1.0 - energy / machine.energy_mv) ** fall
    weight /= weight.sum()
    return replace(machine, spectrum_mev=energy, spectrum_weight=weight, cones=cones_of(energy, weight))


def residuals(machine: PhotonMachine, measured: Measurements, backend: Backend) -> tuple[Residual, ...]:
    """What is left between a machine and measurements."""
    fields = _Fields(machine, backend)
    found = [_residual(fields, scan) for scan in measured.scans]
    for of in measured.output_factors:
        percent = 100.0 * (fields.factor(of) / of.factor - 1.0)
        found.append(Residual(f"output factor {_size(of.field_mm)}", percent, abs(percent)))
    return tuple(found)


def _fit_spectrum(machine: PhotonMachine, scans: list[Scan], backend: Backend) -> PhotonMachine:
    def error(logs: Array) -> Array:
        fields = _Fields(with_spectrum(machine, *np.exp(logs)), backend)
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
    reach = INSIDE * 0.5 * widest * (np.sqrt(2.0) if any(s.kind == "diagonal" for s in shallow) else 1.0)
    radius = np.arange(0.0, reach, PROFILE_STEP_MM)
    profile = np.interp(radius, machine.profile_mm, machine.profile)
    for _ in range(PROFILE_ROUNDS):
        fields = _Fields(replace(machine, profile_mm=radius, profile=profile), backend)
        at, ratio = [], []
        for scan in shallow:
            model = fields.along(scan)
            at.append(np.abs(scan.position_mm) * machine.source_axis_mm / (scan.ssd_mm + (scan.depth_mm or 0.0)))
            ratio.append((scan.dose / _on_axis(scan, scan.dose)) / (model / _on_axis(scan, model)))
        profile = profile * _smoothed(radius, np.concatenate(at), np.concatenate(ratio))
        profile = profile / profile[0]
    return replace(machine, profile_mm=radius, profile=profile)


def _smoothed(nodes: Array, at: Array, values: Array) -> Array:
    """Values at equally spaced nodes: means of what is nearest to each, interpolated where there is nothing."""
    nearest = np.rint(at / PROFILE_STEP_MM).astype(int)
    known = np.array([n for n in range(len(nodes)) if np.any(nearest == n)])
    means = [values[nearest == n].mean() for n in known]
    return np.asarray(np.interp(nodes, nodes[known], means))


def _fit_focus(machine: PhotonMachine, scans: list[Scan], backend: Backend) -> PhotonMachine:
    narrow = [s for s in scans if max(s.field_mm) <= 150.0 and s.kind != "diagonal"] or scans
    wanted = [(s, _penumbra_mm(s.position_mm, s.dose)) for s in narrow]
    usable = [(s, width) for s, width in wanted if width is not None]

    def error(sigma: Array) -> Array:
        head = replace(machine.head, focal_mm=(float(sigma[0]), float(sigma[0])))
        fields = _Fields(replace(machine, head=head), backend, FINE_MM)
        return np.array([(_penumbra_mm(s.position_mm, fields.along(s)) or 0.0) - width for s, width in usable])

    if not usable:
        return machine
    sigma = float(least_squares(error, [1.0], bounds=(0.1, 4.0), diff_step=0.1, xtol=1e-2).x[0])
    return replace(machine, head=replace(machine.head, focal_mm=(sigma, sigma)))


def _fit_head(machine: PhotonMachine, factors: tuple[OutputFactor, ...], backend: Backend) -> PhotonMachine:
    def with_head(values: Array) -> PhotonMachine:
        head = replace(machine.head, scatter_share=float(values[0]), scatter_sigma_mm=float(values[1]))
        return replace(machine, head=head)

    def error(values: Array) -> Array:
        fields = _Fields(with_head(values), backend)
        return np.array([fields.factor(of) / of.factor - 1.0 for of in factors])

    bounds = ((0.0, 5.0), (0.3, 60.0))
    found = least_squares(error, [0.06, 20.0], bounds=bounds, x_scale=(0.02, 5.0), diff_step=0.1, xtol=1e-3)
    return with_head(found.x)


def _has_build_up(scans: list[Scan]) -> bool:
    return any(np.count_nonzero(s.position_mm < BUILD_UP_MM) >= 4 for s in scans)


def _fit_electrons(machine: PhotonMachine, scans: list[Scan], backend: Backend) -> PhotonMachine:
    shallow = [s for s in scans if _has_build_up([s])]

    def with_electrons(values: Array) -> PhotonMachine:
        electrons = replace(machine.electrons, share=float(values[0]), depth_mm=float(values[1]))
        return replace(machine, electrons=electrons)

    def error(values: Array) -> Array:
        fields = _Fields(with_electrons(values), backend)
        parts = []
        for scan in shallow:
            model = fields.along(scan)
            deep = scan.position_mm >= BUILD_UP_MM
            scale = (scan.dose[deep] / model[deep]).mean()
            parts.append(((model * scale - scan.dose) / scan.dose.max())[scan.position_mm < BUILD_UP_MM])
        return np.concatenate(parts)

    found = least_squares(error, [0.1, 8.0], bounds=((0.0, 2.0), (1.0, 40.0)), x_scale=(0.1, 5.0), diff_step=0.1)
    return with_electrons(found.x)


def _residual(fields: _Fields, scan: Scan) -> Residual:
    model = fields.along(scan)
    if scan.depth_mm is None:
        use = scan.position_mm >= BUILD_UP_MM
        ratio = model[use] / scan.dose[use]
        off = 100.0 * (ratio / ratio.mean() - 1.0)
        what = f"depth dose {_size(scan.field_mm)}"
        return Residual(what, float(off[np.abs(off).argmax()]), float(np.sqrt((off**2).mean())))
    half = 0.5 * scan.field_mm[1 if scan.kind == "profile-y" else 0] * (scan.ssd_mm + scan.depth_mm)
    use = np.abs(scan.position_mm) <= 0.8 * half / fields.machine.source_axis_mm
    off = 100.0 * (model / _on_axis(scan, model) - scan.dose / _on_axis(scan, scan.dose))[use]
    found, wanted = _penumbra_mm(scan.position_mm, model), _penumbra_mm(scan.position_mm, scan.dose)
    return Residual(
        f"{scan.kind} {_size(scan.field_mm)}, {scan.depth_mm:g} mm deep",
        float(off[np.abs(off).argmax()]),
        float(np.sqrt((off**2).mean())),
        None if found is None or wanted is None else found - wanted,
    )


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
