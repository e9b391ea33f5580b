"""A tree of folders as a batch: every plan below is an item."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread

from cluster.batch.identity import Identity, identity_of
from cluster.batch.manifest import Item, Manifest, completed, fitting
from cluster.jobs.model import JobKind
from cluster.workflows.options import options_from
from doseeng.dicom.files import PARSE_ERRORS, is_dicom, read_header
from doseeng.dicom.inventory import PLAN_CLASSES, object_of
from doseeng.errors import ConfigError, DicomError

_SOP_CLASS: Final = 0x00080016


@dataclass(frozen=True, slots=True)
class _Found:
    """A plan file below the tree."""

    folder: Path
    uid: str
    label: str
    identity: Identity


def read_tree(root: Path, kind: JobKind, usual: Mapping[str, Any]) -> Manifest:
    """Every plan with treatment beams below `root` as an item, named by its folder, in the order of the folders.

    What the plan refers to is looked for in its folder and, when it is not all there, in the folders above it up to the
    first below `root`. A folder whose name tells who the patient is gives its items a number instead. ConfigError: an
    image of a day cannot be found this way (adapt), or there is no plan at all.
    """
    if kind is JobKind.ADAPT:
        raise ConfigError(
            "a folder tree does not say which images are a patient's days; write a manifest (.csv or .toml) with the "
            "columns name, case and image"
        )
    options = options_from(kind, fitting(completed(usual, Path(), "command line"), kind))
    found = list(_plans(root))
    if not found:
        raise ConfigError(
            f"below '{root.name}' there is no DICOM plan with treatment beams; give a folder of cases, or a manifest"
        )
    by_folder: dict[Path, list[_Found]] = {}
    for plan in found:
        by_folder.setdefault(plan.folder, []).append(plan)
    items: list[Item] = []
    for folder, plans in by_folder.items():
        for plan in plans:
            within = root / folder.relative_to(root).parts[0] if folder != root else root
            name = _name(root, plan, len(plans) > 1, len(items) + 1, {item.name for item in items})
            items.append(Item(name, f"plan {len(items) + 1} of the tree", folder, options, plan.uid, within=within))
    return Manifest(root.resolve().name, kind, tuple(items))


def _name(root: Path, plan: _Found, has_siblings: bool, number: int, taken: set[str]) -> str:
    name = plan.folder.relative_to(root).as_posix() if plan.folder != root else root.resolve().name
    if has_siblings:
        name = f"{name}: {plan.label or number}"
    if plan.identity.is_in(name):
        name = f"item-{number:03d}"
    return f"{name} ({number})" if name in taken else name


def _plans(root: Path) -> Iterator[_Found]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("doseeng-batch-"))
        for name in sorted(names):
            path = Path(folder, name)
            try:
                plan = _plan(path)
            except (DicomError, *PARSE_ERRORS):
                continue  # a case that needs this file says so when it is read
            if plan is not None:
                yield plan


def _plan(path: Path) -> _Found | None:
    if not path.is_file() or not is_dicom(path):
        return None
    if dcmread(path, specific_tags=[_SOP_CLASS], stop_before_pixels=True).get("SOPClassUID") not in PLAN_CLASSES:
        return None
    dataset = read_header(path)
    read = object_of(dataset, path, path.name)
    if read is None or read.treatment_beams == 0:
        return None
    return _Found(path.parent, read.sop_uid, read.label, identity_of(dataset))
