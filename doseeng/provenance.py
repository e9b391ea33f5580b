"""What a dose depends on, as a record: hashes of plan, image and structures, machines, HU table, versions, settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Final

import numpy as np

import doseeng
from doseeng.backend import Backend
from doseeng.case import Case
from doseeng.grid import Grid
from doseeng.materials import HuTable
from doseeng.plan import PhotonBeam, ProtonBeam
from doseeng.structures import StructureSet

NAMES: Final = frozenset({"name", "machine"})
"""Fields of a beam that change no dose: the machine model has a hash of its own."""


def provenance(
    case: Case,
    beams: tuple[ProtonBeam | PhotonBeam, ...],
    machines: Mapping[str, Mapping[str, str]],
    table: HuTable,
    grid: Grid,
    settings: Mapping[str, object],
    backend: Backend,
) -> dict[str, object]:
    """JSON-ready. machines: version and sha256 by name. settings: what else was chosen."""
    return {
        "code": f"doseeng {doseeng.__version__}",
        "case": case.key,
        "plan_uid": case.plan.uid,
        "image_sha256": hashlib.sha256(case.ct.values.tobytes()).hexdigest(),
        "plan_sha256": _beams_hash(beams, case.plan.patient_position),
        "structures_sha256": _structures_hash(case.structures),
        "machines": {name: dict(record) for name, record in machines.items()},
        "hu_table": {"name": table.name, "version": table.version, "sha256": table.digest},
        "dose_grid": {"shape": list(grid.shape), "spacing_mm": list(grid.spacing_mm)},
        **settings,
        "backend": backend.description,
    }


def _beams_hash(beams: tuple[ProtonBeam | PhotonBeam, ...], patient_position: str) -> str:
    digest = hashlib.sha256()
    for beam in beams:
        of_beam = (
            _of_spots(beam, patient_position) if isinstance(beam, ProtonBeam) else _everything((patient_position, beam))
        )
        for part in of_beam:
            digest.update(part)
    return digest.hexdigest()


def _of_spots(beam: ProtonBeam, patient_position: str) -> Iterator[bytes]:
    geometry = (beam.number, beam.gantry_deg, beam.couch_deg, beam.isocenter_mm, beam.fractions, beam.range_shifter)
    yield repr((patient_position, *geometry)).encode()
    for array in (beam.spot_uv_mm, beam.spot_energy_mev, beam.spot_mu):
        yield array.tobytes()


def _everything(value: object) -> Iterator[bytes]:
    """All fields of a beam and of the devices in it, whatever they are, but for names."""
    if is_dataclass(value):
        for field in fields(value):
            if field.name not in NAMES:
                yield field.name.encode()
                yield from _everything(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _everything(item)
    elif isinstance(value, np.ndarray):
        yield repr(value.shape).encode()
        yield value.tobytes()
    else:
        yield repr(value).encode()


def _structures_hash(structures: StructureSet) -> str:
    digest = hashlib.sha256()
    for structure in structures.structures:
        digest.update(repr((structure.number, structure.name, structure.kind, structure.overrides)).encode())
        for contour in structure.contours:
            digest.update(contour.tobytes())
    return digest.hexdigest()
