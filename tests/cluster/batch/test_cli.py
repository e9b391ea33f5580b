"""The command: exit codes, JSON, and a real case through the real engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.batch.results import ItemResult, Outcome
from cluster.cli.batch import exit_code
from cluster.cli.batchtable import live_view
from tests.conftest import Ended, WaterCase


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ("GREEN", 0),
        ("GREEN DONE", 0),
        ("GREEN AMBER", 1),
        ("AMBER RED GREEN", 2),
        ("RED UNEVALUABLE", 3),
        ("UNEVALUABLE FAILED", 4),
        ("RED WAITING", 4),
    ],
)
def test_exit_codes(outcomes: str, code: int) -> None:
    items = [ItemResult(word, "evaluate", "done", Outcome(word)) for word in outcomes.split()]
    assert exit_code(items, is_stopped=False) == code
    assert exit_code(items, is_stopped=True) == (130 if "WAITING" in outcomes else code)


def test_live_view_fits_the_terminal() -> None:
    items = [ItemResult(f"i{n}", "evaluate", "done", Outcome.GREEN, seconds=1.0) for n in range(50)]
    items += [ItemResult(f"[red]{n}", "evaluate", "running", Outcome.WAITING, stage="dose") for n in range(3)]
    items += [ItemResult(f"w{n}", "evaluate", "queued", Outcome.WAITING) for n in range(40)]
    table, counts = live_view("spring", items, 12).renderables
    assert table.row_count == 12  # type: ignore[union-attr]
    assert "50 of 93 ended" in str(counts)


def test_a_batch_from_the_command_line(
    doseeng: Callable[..., Ended], make_case: Callable[..., Path], tmp_path: Path, computed: list[str]
) -> None:
    make_case(tmp_path / "tree" / "one", "A1")
    make_case(tmp_path / "tree" / "two", "G2")
    ended = doseeng("batch", "tree", "--json")
    assert ended.code == 1, ended.err
    assert ended.result["outcomes"] == {"AMBER": 1, "GREEN": 1}
    assert ended.result["folder"] == "doseeng-batch-tree"
    assert (tmp_path / "doseeng-batch-tree" / "overview.html").is_file()
    ended = doseeng("batch", "tree")
    assert ended.code == 1
    assert "2 of 2 ended" in ended.out
    assert ended.err.splitlines()[-1].startswith("2/2 ")
    assert sorted(computed) == ["A1", "G2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either a manifest"),
        (("tree", "--under-treatment", "north"), "either a manifest"),
        (("--under-treatment", "north"), "needs --config"),
        (("tree", "--workers", "2"), "--workers is for --executor ray"),
        (("tree", "--executor", "slurm"), "in-process"),
        (("note.txt",), "is no manifest"),
    ],
)
def test_what_makes_no_sense(
    doseeng: Callable[..., Ended], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "note.txt").write_text("x")
    ended = doseeng("batch", *arguments)
    assert ended.code == 4
    assert said in ended.err


def test_a_real_case(doseeng: Callable[..., Ended], water_case: WaterCase, tmp_path: Path) -> None:
    water_case.write(tmp_path / "tree" / "water")
    ended = doseeng("batch", "tree", "--scenarios", "nominal", "--json")
    assert ended.code == 0, ended.err + ended.out
    (item,) = ended.result["items"]
    assert [goal["metric"] for goal in item["goals"]] == ["V95%", "D95%"]
    report = (tmp_path / "doseeng-batch-tree" / item["report"]).read_text()
    written = report + json.dumps(ended.result) + (tmp_path / "doseeng-batch-tree" / "overview.html").read_text()
    for secret in water_case.secrets:
        assert secret not in written
