"""Damaged files and damaged associations, thousands of them: `python -m benchmarks.dicomfuzz --count 5000 --seed 1`.

Files go through `Library.receive`, what is accepted through everything that reads it (case, image, queries, the
engine's readers). Associations are real ones of every service, recorded byte by byte, damaged and played to a node in a
process of its own. Nothing but a DoseengError may come out of a file; the node must go on answering, with no thread,
connection or memory left behind. Exit code 1 when one of that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from benchmarks.dicomfuzz_mutate import MOST_GROWTH_MB, mutated, process_figures, with_uid
from benchmarks.dicomfuzz_network import fuzz_associations
from benchmarks.smallpatient import SmallPatient, write_small_patient
from cluster.library.entries import Received
from cluster.node.callers import Caller
from cluster.node.network import PATIENT_ROOT_FIND, be_silent
from cluster.node.query import LEVELS
from cluster.node.retrieve import found
from cluster.service.config import ServiceConfig
from cluster.service.services import Services, open_services
from doseeng.case import DicomContext
from doseeng.dicom.case import read_case
from doseeng.dicom.day import read_day_image
from doseeng.errors import DoseengError

FRESH_EVERY: Final = 250
"""Files after which the library starts anew: thousands of objects that claim to be of one series are no case."""
ENGINE_EVERY: Final = 5
"""Every so many files one is also put among the files of the case and read by the engine's own readers."""
WARM_UP: Final = 0.2
KEYS: Final = ("PatientName", "PatientID", "StudyDate", "StudyTime", "SeriesDescription", "RTPlanLabel", "Rows")


@dataclass(slots=True)
class FileFigures:
    """What became of damaged files. rss_mb: after the warm-up and at the end."""

    count: int = 0
    accepted: int = 0
    refused: int = 0
    read_by_engine: int = 0
    rss_mb: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def corpus(patient: SmallPatient, folder: Path) -> list[bytes]:
    """One object of every kind, and images in other encodings."""
    day, first = patient.cbct_files[0], patient.case_files
    objects = [day.read_bytes(), *(path.read_bytes() for path in first if not path.name.startswith("CT"))]
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless):
        dataset = dcmread(day)
        if syntax == RLELossless:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(folder / "encoded.dcm", implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
        objects.append((folder / "encoded.dcm").read_bytes())
    return objects


def fuzz_files(count: int, seed: int, folder: Path) -> FileFigures:
    """Receive and read `count` damaged files, in this process."""
    be_silent()
    random = np.random.default_rng(seed)
    patient = write_small_patient(folder / "patient")
    originals = corpus(patient, folder)
    figures, kinds = FileFigures(), Counter[str]()
    services = None
    start = time.monotonic()
    for number in range(count):
        if number % FRESH_EVERY == 0:
            services = _fresh(services, folder / "library", patient)
        original = originals[int(random.integers(len(originals)))]
        data = mutated(random, with_uid(original, number))
        try:
            _one(services, data, figures)
            if number % ENGINE_EVERY == 0:
                _engine(patient, data, folder, figures)
        except Exception as error:  # noqa: BLE001 (this is what is looked for)
            kinds[f"{type(error).__name__}: {error}"] += 1
            (folder / f"failure-{seed}-{number}.dcm").write_bytes(data)
        figures.count += 1
        if number == int(count * WARM_UP):
            figures.rss_mb = (process_figures().rss_mb, 0.0)
    figures.rss_mb = (figures.rss_mb[0], process_figures().rss_mb)
    figures.seconds = time.monotonic() - start
    figures.failures = [f"{times} x {kind}" for kind, times in kinds.most_common()]
    if services is not None:
        services.close()
    return figures


def _fresh(services: Services | None, folder: Path, patient: SmallPatient) -> Services:
    """A library that holds the case."""
    if services is not None:
        services.close()
    shutil.rmtree(folder, ignore_errors=True)
    made = open_services(ServiceConfig.model_validate({"data_dir": str(folder), "site": [{"name": "site"}]}))
    for path in patient.case_files:
        made.library.receive("site", path)
    return made


def _one(services: Services | None, data: bytes, figures: FileFigures) -> None:
    assert services is not None
    try:
        received = services.library.receive("site", data, calling_ae="FUZZ")
    except DoseengError:
        figures.refused += 1
        return
    figures.accepted += 1
    _read(services, received)


def _read(services: Services, received: Received) -> None:
    """Everything that the service reads of an accepted object."""
    library = services.library
    for question in (
        lambda: library.image_objects("site", received.series_uid),
        lambda: library.case_objects("site", received.sop_uid),
        lambda: library.data("site", received.sop_uid),
        lambda: library.series("site", series_uid=received.series_uid),
    ):
        try:
            question()
        except DoseengError:
            continue
    caller = Caller(services.config.site[0], "FUZZ", "DOSEENG", "127.0.0.1")
    for level in LEVELS:
        query = Dataset()
        query.QueryRetrieveLevel = level
        query.SOPInstanceUID = received.sop_uid
        for keyword in KEYS:
            setattr(query, keyword, "*" if keyword == "PatientName" else None)
        event = SimpleNamespace(
            identifier=query, context=SimpleNamespace(abstract_syntax=PATIENT_ROOT_FIND), is_cancelled=False
        )
        for _ in found(services, caller, event):
            pass


def _engine(patient: SmallPatient, data: bytes, folder: Path, figures: FileFigures) -> None:
    """The engine's readers, with the damaged object among the files of the case."""
    place = folder / "engine"
    if not place.exists():
        shutil.copytree(patient.case, place)
    try:
        for name in ("CT.0005.dcm", "rs.dcm", "rp.dcm"):
            (place / name).write_bytes(data)
            try:
                read_case(place)
                figures.read_by_engine += 1
            except DoseengError:
                pass
            shutil.copy(patient.case / name, place / name)
        alone = folder / "day"
        alone.mkdir(exist_ok=True)
        (alone / "image.dcm").write_bytes(data)
        with contextlib.suppress(DoseengError):
            read_day_image(alone, _planning(patient))
    finally:
        shutil.rmtree(place, ignore_errors=True)


@cache
def _planning(patient: SmallPatient) -> DicomContext:
    context = read_case(patient.case).dicom
    assert context is not None
    return context


def in_child(work: Any, *arguments: Any) -> Any:
    """What `work` returns, run in a process of its own: a crash of it is a RuntimeError here."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_answered, args=(theirs, work, arguments))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the process that was fuzzed died with exit code {child.exitcode}") from None
    finally:
        child.join()


def _answered(answer: Connection, work: Any, arguments: tuple[Any, ...]) -> None:
    answer.send(work(*arguments))


def run(count: int, associations: int, seed: int, folder: Path) -> dict[str, Any]:
    """Figures of both, JSON-ready, with `problems`: what must not be."""
    files: FileFigures = in_child(fuzz_files, count, seed, folder)
    network = fuzz_associations(associations, seed, folder)
    problems = [f"file: {failure}" for failure in files.failures] + network.problems
    warm, end = files.rss_mb
    if end > warm + MOST_GROWTH_MB:
        problems.append(f"files: memory grew from {warm:.1f} to {end:.1f} MB after the warm-up")
    return {"files": asdict(files), "associations": asdict(network), "problems": problems}


def main() -> int:
    """Run it and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="damaged files")
    parser.add_argument("--associations", type=int, help="damaged associations; as many as files when left out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder where files that failed are kept")
    options = parser.parse_args()
    associations = options.count if options.associations is None else options.associations
    with tempfile.TemporaryDirectory(prefix="dicomfuzz-") as folder:
        figures = run(options.count, associations, options.seed, Path(folder))
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for path in Path(folder).glob("failure-*.dcm"):
                shutil.copy(path, options.keep)
    print(json.dumps(figures, indent=1))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
