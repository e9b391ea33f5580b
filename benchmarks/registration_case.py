"""Registrations with known answers, read from the reference data (`registration/` in its README)."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from benchmarks.peers.exchange import Image, Task
from doseeng.dicom.case import read_image
from doseeng.dicom.files import read_file
from doseeng.dicom.rtstruct import structure_set_from
from doseeng.grid import Grid, Volume
from doseeng.masks import mask
from doseeng.transforms import DisplacementField, voxel_centres

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BODY_HU = -300.0
TARGETS = 5
TARGET_RADIUS_MM = 15.0
TARGET_DEPTH_MM = 25.0
"""Centres of targets lie at least so deep under the skin and inside the field of view."""
CORE_MM = 10.0
TUMOUR = "Tumor"


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Points (n, 3) mm of the same anatomy in both images. inside, core: which of the day's points lie in the field of
    view, and CORE_MM inside it."""

    planning_mm: Array
    day_mm: Array
    inside: Mask
    core: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Tumour:
    """A target drawn in both images: its voxel centres in the planning image with weights, and its centres there."""

    points_mm: Array
    weights: Array
    planning_mm: Array
    day_mm: Array


@dataclass(frozen=True, slots=True, eq=False)
class RegistrationCase:
    """Two images, and what is known about them.

    kind: CT, CBCT, pair or phase. seen: where the day's image shows something, `body`: where tissue that must not fold
    lies, both on the day's grid. truth: the pullback, where it is known everywhere. targets_mm: centres of spheres in
    the day's image. far: the images lie far apart, so a rigid registration comes first.
    """

    name: str
    kind: str
    planning: Volume
    day: Volume
    seen: Mask
    body: Mask
    landmarks: Landmarks | None = None
    truth: DisplacementField | None = None
    targets_mm: Array = field(default_factory=lambda: np.empty((0, 3)))
    tumour: Tumour | None = None
    far: bool = False

    def task(self) -> Task:
        """What a method gets to see: images, and where the day's image counts."""
        everywhere = np.ones(self.planning.grid.shape, dtype=np.uint8)
        return Task(_image(self.day, self.seen.astype(np.uint8)), _image(self.planning, everywhere), self.far)


def _image(volume: Volume, mask: npt.NDArray[np.uint8]) -> Image:
    return Image(volume.values, volume.grid.spacing_mm, volume.grid.origin_mm, mask)


def read_known(path: Path) -> tuple[RegistrationCase, RegistrationCase]:
    """The CT and the cone-beam CT of a day with an exactly known deformation."""
    with np.load(path) as arrays:
        known = dict(arrays)
    spacing, origin = tuple(known["spacing_mm"]), tuple(known["origin_mm"])
    grid = Grid(known["planning_hu"].shape, spacing, origin)
    stride = int(known["pullback_stride"])
    coarse = Grid(known["pullback_mm"].shape[:3], tuple(stride * s for s in spacing), origin)
    truth = DisplacementField(coarse, known["pullback_mm"].astype(np.float32))
    seen = np.unpackbits(known["daily_fov"], count=int(np.prod(grid.shape))).reshape(grid.shape).astype(bool)
    planning, daily, cone_beam = (
        Volume(grid, known[key].astype(np.float32)) for key in ("planning_hu", "daily_hu", "daily_cbct_hu")
    )
    body = body_mask(daily)
    targets = target_centres(body & seen, grid)
    cases = []
    for kind, day, shown in (("CT", daily, np.ones_like(seen)), ("CBCT", cone_beam, seen)):
        landmarks = _landmarks(known["landmarks_planning_mm"], known["landmarks_daily_mm"], shown, grid)
        name = f"{path.stem.removesuffix('_known')} {kind}"
        cases.append(RegistrationCase(name, kind, planning, day, shown, body, landmarks, truth, targets))
    return cases[0], cases[1]


def read_pair(path: Path) -> RegistrationCase:
    """Baseline (as the day's image) and follow-up CT of a lung with landmarks set by people.

    The lungs' masks tell where registration counts: ribs slide along them.
    """
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(path) as archive:
        archive.extractall(name)
        folder = Path(name)
        day, planning = (_read_mha(folder / f"3DCT_lung_{which}.mha") for which in ("baseline", "followup"))
        lung = _read_mha(folder / "3DCT_lung_baseline_mask.mha").values > 0
        points = [
            np.loadtxt(folder / f"CT_3D_lung_{which}_point_set_corrected.txt", skiprows=2)
            for which in ("fixed", "moving")
        ]
    landmarks = _landmarks(points[1], points[0], np.ones(day.grid.shape, dtype=bool), day.grid)
    return RegistrationCase("lung pair", "pair", planning, day, lung, lung, landmarks, far=True)


def read_phases(path: Path) -> tuple[RegistrationCase, ...]:
    """Three breathing phases as days of the middle one, each with its tumour drawn."""
    volumes, weights = [], []
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(path) as archive:
        archive.extractall(name)
        for folder in sorted(Path(name).iterdir()):
            volume = read_image(folder).volume
            (file,) = folder.glob("rtss*.dcm")
            structures = structure_set_from(read_file(file), file.name)
            volumes.append(volume)
            weights.append(mask(structures.by_name(TUMOUR), volume.grid).values)
    middle = volumes[1]
    points = voxel_centres(middle.grid)
    centres = [np.average(points[w > 0], axis=0, weights=w[w > 0]) for w in weights]
    drawn = weights[1] > 0
    cases = []
    for day, centre in zip(volumes, centres, strict=True):
        tumour = Tumour(points[drawn], weights[1][drawn].astype(float), centres[1], centre)
        everywhere = np.ones(day.grid.shape, dtype=bool)
        name = f"phase {centre[2] - centres[1][2]:+.0f} mm"
        cases.append(RegistrationCase(name, "phase", middle, day, everywhere, body_mask(day), tumour=tumour))
    return tuple(cases)


def body_mask(volume: Volume) -> Mask:
    """The largest connected part that is denser than BODY_HU, without its holes in axial slices."""
    labels, count = ndimage.label(volume.values > BODY_HU)
    if count == 0:
        return np.zeros(volume.grid.shape, dtype=bool)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


def target_centres(allowed: Mask, grid: Grid) -> Array:
    """(TARGETS, 3) points deep in `allowed`: the one nearest its centroid, then always the one farthest from those."""
    depth = ndimage.distance_transform_edt(np.pad(allowed, 1), sampling=grid.spacing_mm[::-1])[1:-1, 1:-1, 1:-1]
    points = voxel_centres(grid)
    deep = points[depth >= TARGET_DEPTH_MM]
    if not len(deep):
        return np.empty((0, 3))
    chosen = [deep[np.argmin(np.linalg.norm(deep - points[allowed].mean(axis=0), axis=1))]]
    nearest = np.full(len(deep), np.inf)
    while len(chosen) < TARGETS:
        nearest = np.minimum(nearest, np.linalg.norm(deep - chosen[-1], axis=1))
        chosen.append(deep[np.argmax(nearest)])
    return np.array(chosen)


def _landmarks(planning_mm: Array, day_mm: Array, seen: Mask, grid: Grid) -> Landmarks:
    i, j, k = np.round(grid.to_index(day_mm)).astype(int).T
    depth = np.inf
    if not seen.all():
        depth = ndimage.distance_transform_edt(seen, sampling=grid.spacing_mm[::-1])[k, j, i]
    core = np.broadcast_to(depth >= CORE_MM, len(day_mm))
    return Landmarks(np.asarray(planning_mm, dtype=float), np.asarray(day_mm, dtype=float), seen[k, j, i], core)


def _read_mha(path: Path) -> Volume:
    image = sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    direction = np.reshape(image.GetDirection(), (3, 3))
    return Volume(Grid(values.shape, image.GetSpacing(), image.GetOrigin(), direction), values)
