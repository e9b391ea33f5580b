"""Fixtures every package uses."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The reference data folder; tests that need it skip where it is absent."""
    path = Path(os.environ.get("DOSEENG_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("reference data not found: set DOSEENG_DATA or put it in ../shared/data")
    return path


@pytest.fixture(scope="session")
def unzipped(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`unzipped("dcpt_proton_slab")`: the folder of one zip of `dicom/`, unpacked once per session."""
    done: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in done:
            archive = data_dir / "dicom" / f"{name}.zip"
            if not archive.is_file():
                pytest.skip(f"reference data has no dicom/{name}.zip")
            done[name] = tmp_path_factory.mktemp(name)
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(done[name])
        return done[name]

    return unpack
