"""The organs of the demo thorax as level fields; all sizes in mm, patient axes (x left, y posterior, z superior)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cluster.demo.shapes import Field, Space, ellipsoid, superellipse, tube

BODY_CENTRE_Y: Final = 5.0
FAT_MM: Final = 13.0
SKIN_MM: Final = 2.5
RIB_PITCH: Final = 27.0
RIB_SLOPE: Final = 0.45
"""Ribs fall towards the front by this much per mm."""
VERTEBRA_PITCH: Final = 26.0
DISC_MM: Final = 6.0
GTV_CENTRE: Final = (-82.0, 8.0, 4.0)
GTV_RADIUS: Final = 18.0
CTV_MARGIN: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """Level fields of everything the phantom is painted from, all of one shape (nz, ny, nx)."""

    body: Field
    cavity: Field
    lung_right: Field
    lung_left: Field
    mediastinum: Field
    liver: Field
    stomach: Field
    heart: Field
    aorta: Field
    great_vessels: Field
    airways: Field
    esophagus: Field
    ribs: Field
    cartilage: Field
    sternum: Field
    scapulae: Field
    vertebrae: Field
    discs: Field
    arches: Field
    canal: Field
    cord: Field
    gtv: Field
    ctv: Field


def thorax(space: Space) -> Anatomy:
    """All organs on the voxels of `space`."""
    x, y, z = space.x, space.y, space.z
    y0 = y - BODY_CENTRE_Y
    body = superellipse(x, y0, 178.0 - 0.05 * z, 116.0 - 0.04 * z, 2.5)
    # Lungs taper to their apex; below the hilum the cavity keeps its width.
    taper = np.sqrt(1.0 - (np.maximum(z + 25.0, 0.0) / 150.0) ** 2)
    cavity = superellipse(x, y0, 134.0 * taper, 88.0 * taper**0.6, 2.4)
    vertebrae, discs, arches, canal = _spine(space)
    heart = ellipsoid(space, (27.0, -24.0, -48.0), (60.0, 42.0, 56.0), 35.0)
    aorta = _aorta(space)
    liver = ellipsoid(space, (-68.0, 0.0, -166.0), (92.0, 88.0, 92.0))
    stomach = ellipsoid(space, (72.0, 8.0, -172.0), (78.0, 82.0, 84.0))
    mediastinum = _union(
        superellipse(x, y + 8.0, 33.0 + 0.02 * z, 72.0, 2.2),
        superellipse(x, y - 78.0, 34.0, 38.0, 2.2),
        heart + 4.0,
        aorta + 3.0,
    )
    lungs = _common(cavity - 2.0, -mediastinum, -liver, -stomach)
    gtv = _tumour(space)
    ribs, cartilage = _ribs(space, cavity)
    return Anatomy(
        body=_full(space, body),
        cavity=_full(space, cavity),
        lung_right=_common(lungs, -x),
        lung_left=_common(lungs, x),
        mediastinum=_common(mediastinum, cavity),
        liver=_common(liver, cavity),
        stomach=_common(stomach, cavity),
        heart=heart,
        aorta=aorta,
        great_vessels=_great_vessels(space),
        airways=_airways(space),
        esophagus=_esophagus(space),
        ribs=ribs,
        cartilage=cartilage,
        sternum=_sternum(space),
        scapulae=_scapulae(space, cavity),
        vertebrae=vertebrae,
        discs=discs,
        arches=arches,
        canal=canal,
        cord=_full(space, superellipse(x, y - 89.0, 6.2, 4.8, 2.0)),
        gtv=gtv,
        ctv=gtv + np.float32(CTV_MARGIN),
    )


def _tumour(space: Space) -> Field:
    """A lobulated solid tumour in the right lung, with lung all around."""
    x, y, z = (c - o for c, o in zip((space.x, space.y, space.z), GTV_CENTRE, strict=True))
    distance = np.sqrt((x / 1.04) ** 2 + (y / 0.94) ** 2 + z**2)
    lobes = np.sin(0.19 * x + 0.6) * np.cos(0.17 * y - 0.3) + 0.8 * np.sin(0.21 * z + 0.11 * x)
    return np.asarray(GTV_RADIUS * (1.0 + 0.07 * lobes) - distance, dtype=np.float32)


def _ribs(space: Space, cavity: Field) -> tuple[Field, Field]:
    """Bone and, near the sternum, cartilage: rods in a shell around the cavity, on planes falling to the front."""
    x, y, z = space.x, space.y, space.z
    outside = -cavity - 6.0
    phase = (z - RIB_SLOPE * y) % RIB_PITCH - 0.5 * RIB_PITCH
    rods = np.asarray((1.0 - np.sqrt((outside / 4.6) ** 2 + (phase / 6.8) ** 2)) * 4.6, dtype=np.float32)
    front = _common(62.0 - np.abs(x), -45.0 - y)
    apart = _common(np.abs(x) - 20.0, rods)
    return _common(apart, -front), _common(apart, front)


def _sternum(space: Space) -> Field:
    shape = superellipse(space.x, space.y + 91.0 + 0.08 * space.z, 20.0 + 0.06 * space.z, 6.5, 2.6)
    return _common(shape, space.z + 70.0)


def _scapulae(space: Space, cavity: Field) -> Field:
    """Thin blades behind the upper ribs."""
    blades = [ellipsoid(space, (s * 102.0, 64.0, 92.0), (34.0, 5.5, 50.0), -s * 38.0) for s in (-1.0, 1.0)]
    return _common(_union(*blades), -cavity - 11.0)


def _spine(space: Space) -> tuple[Field, Field, Field, Field]:
    """Vertebral bodies, discs, arches with processes, and the canal."""
    x, y, z = space.x, space.y, space.z
    phase = np.abs((z + 4.0) % VERTEBRA_PITCH - 0.5 * VERTEBRA_PITCH)
    disc_part = phase - 0.5 * (VERTEBRA_PITCH - DISC_MM)
    column = superellipse(x, y - 62.0, 18.5 - 1.5 * np.cos(0.24 * phase), 15.0, 2.2)
    canal = superellipse(x, y - 89.0, 10.5, 8.8, 2.0)
    ring = superellipse(x, y - 88.0, 16.5, 14.5, 2.0)
    spinous = _common(superellipse(x, y - 106.0, 3.8, 10.0, 2.0), 9.0 - phase)
    transverse = _common(
        superellipse(np.abs(x) - 24.0, y - 92.0 + 0.3 * (np.abs(x) - 24.0), 12.0, 5.0, 2.0), 6.0 - phase
    )
    arches = _common(_union(_common(ring, 10.0 - phase), spinous, transverse), -canal)
    vertebrae = _common(column, -disc_part)
    return vertebrae, _common(column, disc_part), arches, _full(space, canal)


def _aorta(space: Space) -> Field:
    angle = np.linspace(0.0, np.pi, 9)
    arch = [(float(6.0 + 15.0 * a), float(8.0 - 30.0 * np.cos(b)), float(52.0 + 24.0 * np.sin(b)))
            for a, b in zip(np.linspace(-0.8, 1.1, 9), angle, strict=True)]  # fmt: skip
    return tube(space, [(0.0, -20.0, -10.0), *arch, (22.0, 40.0, 0.0), (14.0, 40.0, -130.0)], 12.5)


def _great_vessels(space: Space) -> Field:
    """Vena cava, pulmonary trunk and arteries, vessels above the arch."""
    return _union(
        tube(space, [(-20.0, -10.0, -30.0), (-22.0, -14.0, 60.0), (-16.0, -14.0, 120.0)], 9.5),
        tube(space, [(16.0, -34.0, -5.0), (16.0, -22.0, 22.0), (32.0, 2.0, 30.0), (46.0, 8.0, 24.0)], 11.0),
        tube(space, [(16.0, -20.0, 22.0), (-20.0, 0.0, 18.0), (-44.0, 6.0, 12.0)], 9.0),
        tube(space, [(2.0, -8.0, 74.0), (-14.0, -2.0, 125.0)], 6.0),
        tube(space, [(18.0, 14.0, 76.0), (24.0, 14.0, 125.0)], 5.0),
    )


def _airways(space: Space) -> Field:
    return _union(
        tube(space, [(-3.0, 18.0, 125.0), (-2.0, 22.0, 38.0)], 8.5),
        tube(space, [(-2.0, 22.0, 38.0), (-26.0, 20.0, 20.0), (-44.0, 16.0, 6.0)], 6.0),
        tube(space, [(-2.0, 22.0, 38.0), (26.0, 22.0, 16.0), (44.0, 20.0, 4.0)], 5.6),
    )


def _esophagus(space: Space) -> Field:
    shift = 0.04 * space.z
    return _full(space, superellipse(space.x - 6.0 + shift, space.y - 37.0, 8.5, 6.0, 2.0))


def _full(space: Space, field: Field) -> Field:
    shape = np.broadcast_shapes(space.x.shape, space.y.shape, space.z.shape)
    return np.ascontiguousarray(np.broadcast_to(field, shape), dtype=np.float32)


def _union(*fields: Any) -> Field:
    out = fields[0]
    for field in fields[1:]:
        out = np.maximum(out, field)
    return np.asarray(out, dtype=np.float32)


def _common(*fields: Any) -> Field:
    out = fields[0]
    for field in fields[1:]:
        out = np.minimum(out, field)
    return np.asarray(out, dtype=np.float32)
