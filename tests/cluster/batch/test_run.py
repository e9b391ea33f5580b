"""Batches end to end with a quick stand-in for the engine: isolation, resuming, changed inputs, tables, identity."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pydicom
import pytest

from cluster.batch.manifest import read_manifest
from cluster.batch.results import ItemResult, Outcome
from cluster.batch.run import SITE, opened, run_batch
from cluster.batch.tables import GOALS, ITEMS
from cluster.batch.tree import read_tree
from cluster.jobs.model import JobKind, JobState
from cluster.service.config import ExecutorConfig, Site
from doseeng.dicom.ct import write_ct
from doseeng.dicom.writing import new_context
from doseeng.errors import ConfigError
from tests.conftest import WaterCase

MakeCase = Callable[..., Path]
COMPUTING = ExecutorConfig()


def run(
    manifest: Path,
    folder: Path,
    usual: dict[str, object] | None = None,
    stop: threading.Event | None = None,
    watch: Callable[[Sequence[ItemResult]], None] = lambda items: None,
) -> dict[str, ItemResult]:
    read = read_tree if manifest.is_dir() else read_manifest
    items = run_batch(
        read(manifest, JobKind.EVALUATE, usual or {}),
        folder,
        Site(name=SITE),
        COMPUTING,
        watch,
        stop or threading.Event(),
    )
    return {item.name: item for item in items}


def write_manifest(folder: Path, *names: str, goals: str = "") -> Path:
    rows = [f"{name},cases/{name},{goals}" for name in names]
    path = folder / "spring.csv"
    path.write_text("\n".join(["name,case,goals", *rows]), encoding="utf-8")
    return path


@pytest.fixture
def spring(tmp_path: Path, make_case: MakeCase) -> Path:
    """A manifest of four cases, of which the second is broken and the fourth makes the engine fail."""
    make_case(tmp_path / "cases" / "one", "G1")
    broken = make_case(tmp_path / "cases" / "two", "G2")
    slices = sorted(path for path in broken.iterdir() if path.name not in ("rp.dcm", "rs.dcm"))
    slices[3].write_bytes(slices[3].read_bytes()[:900])
    make_case(tmp_path / "cases" / "three", "R3")
    make_case(tmp_path / "cases" / "four", "crash")
    return write_manifest(tmp_path, "one", "two", "three", "four", "five")


def test_a_case_that_fails_does_not_stop_the_others(spring: Path, tmp_path: Path, computed: list[str]) -> None:
    folder = tmp_path / "out"
    items = run(spring, folder)
    assert {name: item.outcome.value for name, item in items.items()} == {
        "one": "GREEN",
        "two": "FAILED",
        "three": "RED",
        "four": "FAILED",
        "five": "FAILED",
    }
    assert items["two"].error == "DicomError"
    assert "cut off" in items["two"].reasons[0] or "damaged" in items["two"].reasons[0]
    assert "file 4 of " in items["two"].reasons[0]
    assert items["four"].error == "PlanError"
    assert items["four"].reasons == ("beam 1 has no spots; export the plan again",)
    assert "does not exist" in items["five"].reasons[0]
    assert str(tmp_path) not in items["five"].reasons[0]
    assert (folder / items["one"].report).read_text() == "<!doctype html><title>G1</title>"
    assert items["four"].report == ""


def test_tables_hold_items_and_goals(spring: Path, tmp_path: Path, computed: list[str]) -> None:
    folder = tmp_path / "out"
    run(spring, folder)
    items, goals = pq.read_table(folder / "items.parquet"), pq.read_table(folder / "goals.parquet")
    assert items.schema.equals(ITEMS)
    assert goals.schema.equals(GOALS)
    assert items.column("item").to_pylist() == ["one", "two", "three", "four", "five"]
    assert items.column("goals_missed").to_pylist() == [0, 0, 1, 0, 0]
    by_item = {row["item"]: row for row in goals.to_pylist()}
    assert by_item.keys() == {"one", "three"}
    assert (by_item["three"]["value"], by_item["three"]["low"], by_item["three"]["limit"]) == (88.25, 87.75, 95.0)
    for name, table in (("items", items), ("goals", goals)):
        with (folder / f"{name}.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["item"] for row in rows] == table.column("item").to_pylist()
        for row, expected in zip(rows, table.to_pylist(), strict=True):
            assert row == {key: "" if value is None else str(value) for key, value in expected.items()}


def test_what_is_done_is_not_computed_again(spring: Path, tmp_path: Path, computed: list[str]) -> None:
    folder = tmp_path / "out"
    first = run(spring, folder)
    assert sorted(computed) == ["G1", "R3", "crash"]
    computed.clear()
    second = run(spring, folder)
    assert computed == ["crash"], "what failed is tried again, and nothing else"
    assert second["one"] == first["one"]
    assert second["three"] == first["three"]


def test_changed_goals_are_computed_again(spring: Path, tmp_path: Path, computed: list[str]) -> None:
    folder, goals = tmp_path / "out", tmp_path / "goals.toml"
    goals.write_text('[[goal]]\nstructure = "CTV"\nmetric = "V95%"\nrelation = ">="\nlimit = 95.0\nunit = "%"\n')
    manifest = write_manifest(tmp_path, "one", "three", goals="goals.toml")
    run(manifest, folder)
    computed.clear()
    goals.write_text(goals.read_text().replace("95.0", "90.0"))
    items = run(manifest, folder)
    assert sorted(computed) == ["G1", "R3"]
    assert items["one"].goals[0].limit == 90.0
    computed.clear()
    goals.write_text(goals.read_text().replace("90.0", "95.0"))
    assert run(manifest, folder)["one"].goals[0].limit == 95.0
    assert computed == [], "the answer to the first question is still known"


def test_a_changed_case_is_computed_again(tmp_path: Path, make_case: MakeCase, computed: list[str]) -> None:
    case = make_case(tmp_path / "cases" / "one", "G1")
    manifest = write_manifest(tmp_path, "one")
    run(manifest, tmp_path / "out")
    make_case(tmp_path / "other", "R1")
    (case / "rp.dcm").write_bytes((tmp_path / "other" / "rp.dcm").read_bytes())
    assert run(manifest, tmp_path / "out")["one"].outcome is Outcome.RED
    assert computed == ["G1", "R1"]


def test_two_items_of_one_case_with_different_goals(tmp_path: Path, make_case: MakeCase, computed: list[str]) -> None:
    make_case(tmp_path / "case", "G1")
    (tmp_path / "strict.toml").write_text("[uncertainty]\ndose_percent = 0.5\n")
    manifest = tmp_path / "pair.toml"
    manifest.write_text(
        '[[item]]\nname = "usual"\ncase = "case"\n[[item]]\nname = "strict"\ncase = "case"\ngoals = "strict.toml"\n'
        '[[item]]\nname = "again"\ncase = "case"\n'
    )
    items = run(manifest, tmp_path / "out")
    assert [item.outcome for item in items.values()] == [Outcome.GREEN] * 3
    assert len(computed) == 2, "equal questions are asked once"
    assert items["usual"].job_id == items["again"].job_id


def test_stopping_leaves_the_rest_for_later(tmp_path: Path, make_case: MakeCase, computed: list[str]) -> None:
    names = [f"c{number}" for number in range(4)]
    for name in names:
        make_case(tmp_path / "cases" / name, f"G-{name}")
    manifest, folder, stop = write_manifest(tmp_path, *names), tmp_path / "out", threading.Event()

    def watch(items: Sequence[ItemResult]) -> None:
        if any(item.has_ended for item in items):
            stop.set()

    first = run(manifest, folder, stop=stop, watch=watch)
    kept = [name for name, item in first.items() if item.has_ended]
    assert len(kept) > 0
    assert (folder / "overview.html").exists()
    second = run(manifest, folder)
    assert all(item.outcome is Outcome.GREEN for item in second.values())
    assert sorted(computed) == [f"G-{name}" for name in names], "each was computed once"


def test_a_folder_is_worked_in_by_one_process(tmp_path: Path, make_case: MakeCase, computed: list[str]) -> None:
    make_case(tmp_path / "cases" / "one")
    manifest = write_manifest(tmp_path, "one")
    with opened(tmp_path / "out", 3), pytest.raises(ConfigError, match="another process"):
        run(manifest, tmp_path / "out")


def test_jobs_of_a_dead_process_are_free_at_once(tmp_path: Path, make_case: MakeCase, computed: list[str]) -> None:
    make_case(tmp_path / "cases" / "one", "G1")
    manifest, folder = write_manifest(tmp_path, "one"), tmp_path / "out"
    stop = threading.Event()
    stop.set()
    run(manifest, folder, stop=stop)
    from cluster.batch.intake import Intake

    with opened(folder, 3) as place:
        item = read_manifest(manifest, JobKind.EVALUATE, {}).items[0]
        _, spec = Intake(place.blobs, Site(name=SITE), JobKind.EVALUATE, folder / "intake").spec_of(item, 1)
        place.store.submit(spec, created_by="batch")
        claimed = place.store.claim("a driver that died", 3600.0)
        assert claimed is not None
    with opened(folder, 3) as place:
        assert place.store.get(SITE, claimed.id).state is JobState.QUEUED
    assert run(manifest, folder)["one"].outcome is Outcome.GREEN


def test_nothing_tells_who_the_patients_are(
    tmp_path: Path, make_case: MakeCase, computed: list[str], water_case: WaterCase
) -> None:
    root = tmp_path / "export"
    make_case(root / "QZ-4711", "R1")
    make_case(root / "Quatermain_Zebulon" / "plan a", "G2")
    broken = make_case(root / "qz-4711 again", "G3")
    victim = sorted(path for path in broken.iterdir() if path.name not in ("rp.dcm", "rs.dcm"))[0]
    (broken / "00 Quatermain.dcm").write_bytes(victim.read_bytes()[:800])
    victim.unlink()
    folder = tmp_path / "out"
    items = run(root, folder)
    assert sorted(item.outcome.value for item in items.values()) == ["FAILED", "GREEN", "RED"]
    shown = json.dumps([item.name for item in items.values()]) + json.dumps([i.reasons for i in items.values()])
    for path in [*folder.glob("*.html"), *folder.glob("*.csv"), *folder.glob("*.parquet"), *folder.glob("intake/*")]:
        shown += path.read_bytes().decode("latin-1") + path.name
    shown += " ".join(path.name for path in folder.rglob("*"))
    for secret in water_case.secrets:
        assert secret.lower() not in shown.lower()


def test_what_a_plan_refers_to_may_lie_beside_its_folder(
    tmp_path: Path, make_case: MakeCase, computed: list[str]
) -> None:
    root = tmp_path / "tree"
    for name in ("a", "b"):
        images = make_case(root / name / "images", f"G-{name}")
        (root / name / "plans").mkdir()
        (images / "rp.dcm").rename(root / name / "plans" / "rp.dcm")
    items = run(root, tmp_path / "out")
    assert {name: item.outcome.value for name, item in items.items()} == {"a/plans": "GREEN", "b/plans": "GREEN"}


def test_days_of_a_course(tmp_path: Path, water_case: WaterCase, make_case: MakeCase, computed: list[str]) -> None:
    make_case(tmp_path / "case", "G1")
    rows = ["name,case,image"]
    for day in ("20260302", "20260301"):
        write_day(tmp_path / day, water_case, day)
        rows.append(f"d{day},case,{day}")
    rows.append("same,case,case")
    (tmp_path / "days.csv").write_text("\n".join(rows))
    manifest = read_manifest(tmp_path / "days.csv", JobKind.ADAPT, {})
    items = run_batch(manifest, tmp_path / "out", Site(name=SITE), COMPUTING, lambda _items: None, threading.Event())
    assert [item.outcome.value for item in items] == ["GREEN", "GREEN", "FAILED"]
    assert "planning CT" in items[2].reasons[0]
    with opened(tmp_path / "out", 3) as place:
        jobs = {job.spec.lane_order[:10]: job for job in place.store.search(SITE)}
    assert jobs["2026-03-01"].spec.lane == jobs["2026-03-02"].spec.lane


def write_day(folder: Path, water_case: WaterCase, date: str) -> None:
    """The planning CT again, as the image of a day."""
    folder.mkdir()
    write_ct(folder, water_case.case.ct, new_context("Quatermain^Zebulon", "QZ-4711"))
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.AcquisitionDate, image.AcquisitionTime = date, "081500"
        image.save_as(path)
