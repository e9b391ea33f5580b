"""A short run of the fuzz of `benchmarks.dicomfuzz`, and that it would notice what it looks for."""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import dicomfuzz, dicomfuzz_network
from benchmarks.dicomfuzz_mutate import ProcessFigures, mutated, with_uid
from benchmarks.dicomfuzz_network import fuzz_associations, left_behind


def test_damaged_files(tmp_path: Path) -> None:
    figures = dicomfuzz.fuzz_files(200, 7, tmp_path)
    assert figures.failures == []
    assert figures.count == figures.accepted + figures.refused == 200
    assert figures.accepted > 10
    assert figures.refused > 50


def test_damaged_associations(tmp_path: Path) -> None:
    figures = fuzz_associations(100, 7, tmp_path)
    assert figures.problems == []
    assert figures.count == 100
    assert figures.answered > 30
    assert figures.echoes == 1


def test_what_is_left_behind_is_noticed() -> None:
    warm = ProcessFigures(200.0, 4, 20)
    assert left_behind(warm, ProcessFigures(210.0, 5, 22)) == []
    assert len(left_behind(warm, ProcessFigures(220.0, 40, 90))) == 3


def test_the_baseline_is_taken_once_and_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that grow with every measurement: a baseline taken again at the end would hide it."""
    measured = iter(ProcessFigures(100.0 * n, n, n) for n in range(1, 100))
    child = nullcontext((SimpleNamespace(pid=0, is_alive=lambda: True), 0))
    for name, stand_in in {
        "process_figures": lambda _: next(measured),
        "_node": lambda _: child,
        "_settle": lambda _: None,
        "_echoes": lambda *_: True,
        "recorded": lambda *_: [[b"message"]],
        "play": lambda *_: True,
        "ECHO_EVERY": 5,
    }.items():
        monkeypatch.setattr(dicomfuzz_network, name, stand_in)
    figures = fuzz_associations(20, 7, tmp_path)
    assert figures.rss_mb == (100.0, 200.0)
    assert any("memory grew" in problem for problem in figures.problems)


def test_an_error_that_is_not_ours_is_noticed_and_its_file_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(dicomfuzz, "_one", broken)
    figures = dicomfuzz.fuzz_files(3, 1, tmp_path)
    assert figures.failures == ["3 x KeyError: 'x'"]
    assert len(list(tmp_path.glob("failure-1-*.dcm"))) == 3


def test_a_process_that_dies_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        dicomfuzz.in_child(os._exit, 3)


def test_damage_is_the_same_for_the_same_seed() -> None:
    data = bytes(range(256)) * 8
    one, other = (mutated(np.random.default_rng(3), data) for _ in range(2))
    assert one == other != data


def test_an_object_gets_a_uid_of_its_own(patient) -> None:
    data = patient.cbct_files[0].read_bytes()
    assert len(with_uid(data, 1)) == len(data)
    assert with_uid(data, 1) != with_uid(data, 2)
