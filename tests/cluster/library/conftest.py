"""A library on SQLite and files, and the water case as DICOM objects."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.database.connection import Database
from cluster.library.library import Library
from cluster.storage.files import FileBlobs


def filled(library: Library, folder: Path, site: str = "north") -> Library:
    """The library with every object of a folder."""
    for path in sorted(folder.rglob("*.dcm")):
        library.receive(site, path)
    return library


@pytest.fixture
def blobs_of(tmp_path: Path) -> Callable[[str], FileBlobs]:
    return lambda site: FileBlobs(tmp_path / "blobs" / site)


@pytest.fixture
def library(sqlite_database: Database, blobs_of: Callable[[str], FileBlobs]) -> Library:
    """An empty one."""
    return Library(sqlite_database, blobs_of)


@pytest.fixture(scope="session")
def case_dir(water_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole water case: CT, rs.dcm, rp.dcm, the plan's dose rd.dcm and two beam doses."""
    folder: Path = water_case.write(tmp_path_factory.mktemp("library") / "case")
    return folder


@pytest.fixture
def fill() -> Callable[..., Library]:
    return filled
