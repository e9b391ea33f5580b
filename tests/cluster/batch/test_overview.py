"""The overview: the most urgent first, everything escaped, nothing from elsewhere."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cluster.batch.overview import duration, render_overview
from cluster.batch.results import GoalResult, ItemResult, Outcome, by_urgency, goals_in
from cluster.batch.tables import write_tables

WRITTEN = datetime(2026, 3, 1, 8, 15, tzinfo=UTC)


def goal(status: str, value: float | None, limit: float = 95.0) -> GoalResult:
    return GoalResult("CTV", "V95%", ">=", limit, "%", status, 99.0, value, value, value, "x+5 mm", 50.0)


def item(name: str, outcome: Outcome, *goals: GoalResult, **more: object) -> ItemResult:
    return ItemResult(name, "evaluate", "done", outcome, goals=goals, **more)  # type: ignore[arg-type]


ITEMS = (
    item("green", Outcome.GREEN, goal("GREEN", 97.0), report="reports/001-green.html"),
    item("waits", Outcome.WAITING),
    item("amber", Outcome.AMBER, goal("AMBER", 94.97)),
    item("red-one", Outcome.RED, goal("RED", 80.0), goal("GREEN", 97.0)),
    item("red-two", Outcome.RED, goal("RED", 90.0), goal("RED", 60.0)),
    item("failed", Outcome.FAILED, error="DicomError", reasons=("<script>alert(1)</script>",)),
    item("unevaluable", Outcome.UNEVALUABLE, goal("UNEVALUABLE", None)),
)


class Page(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def page() -> str:
    return render_overview("spring", "evaluate", ITEMS, WRITTEN, "0.1.0")


def test_the_most_urgent_first() -> None:
    names = [found.name for found in by_urgency(ITEMS)]
    assert names == ["red-two", "red-one", "unevaluable", "failed", "amber", "green", "waits"]


def test_the_page_shows_them_in_this_order(page: str) -> None:
    names = re.findall(r'<th scope="row">([\w-]+)', page)
    assert names == [found.name for found in by_urgency(ITEMS)]
    assert "CTV V95% 60.0, limit ≥ 95 %" in page, "the goal that is furthest off"
    assert "CTV V95% 94.97, limit ≥ 95 %" in page, "a rounded number never contradicts its verdict"
    assert "Not complete" in page
    assert "does not release a treatment" in page


def test_there_is_a_filter_for_each_outcome(page: str) -> None:
    boxes = {attributes["id"] for tag, attributes in Page(page).tags if tag == "input"}
    assert boxes == {f"show-{outcome.value.lower()}" for outcome in Outcome if outcome is not Outcome.DONE}
    for outcome in Outcome:
        assert f"body:has(#show-{outcome.value.lower()}:not(:checked)) tr.{outcome.value.lower()}" in page


def test_nothing_comes_from_elsewhere(page: str) -> None:
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for tag, attributes in Page(page).tags:
        assert tag not in ("img", "link", "iframe")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src"):
            assert not (attributes.get(name) or "").startswith(("http:", "https:", "//", "file:"))
    links = [attributes["href"] for tag, attributes in Page(page).tags if tag == "a"]
    assert links == ["reports/001-green.html"]


def test_durations() -> None:
    plain = [duration(seconds).replace("\u00a0", " ") for seconds in (None, 8.44, 200.0, 7500.0)]
    assert plain == ["–", "8.4 s", "3 min 20 s", "2 h 05 min"]


def test_goals_of_a_day_and_of_an_evaluation() -> None:
    base = {"structure": "CTV", "metric": "V95%", "relation": ">=", "limit": 95, "unit": "%", "status": "RED"}
    day = {**base, "reason": None, "planned": 99.0, "value": 90.0, "band": {"low": 89.0, "high": 90.5}}
    plan = {**base, "nominal": 99.0, "worst": 90.0, "band": 1.0, "worst_scenario": "x", "passed_percent": 50.0}
    first, second = goals_in({"goals": [day, plan]})
    assert (first.reference, first.value, first.low, first.high) == (99.0, 90.0, 89.0, 90.5)
    assert (second.reference, second.value, second.low, second.high) == (99.0, 90.0, 89.0, 91.0)
    assert (second.where, second.passed_percent) == ("x", 50.0)
    assert goals_in({"gamma": 99.0}) == ()


def test_a_spreadsheet_runs_nothing(tmp_path: Path) -> None:
    write_tables([item("=HYPERLINK(1)", Outcome.RED, goal("RED", None))], tmp_path)
    for name in ("items.csv", "goals.csv"):
        assert "\n'=HYPERLINK(1)," in (tmp_path / name).read_text(encoding="utf-8-sig")
