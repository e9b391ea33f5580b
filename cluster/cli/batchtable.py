"""What a person sees of a batch: a table that follows it on a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.cli.console import STYLES, err, out, show_line

if TYPE_CHECKING:
    from cluster.batch.results import ItemResult

_ROWS_BESIDE: Final = 6
"""Lines of the terminal that are not the table's."""
_WIDEST_REASON: Final = 100
_WORDS: Final = {verdict.value: style for verdict, style in STYLES.items()} | {
    "FAILED": "bold white on magenta4",
    "DONE": "bold white on dodger_blue3",
    "WAITING": "dim",
}


class Shown:
    """Shows items while they are computed: live where the terminal can, else one line when an item ends."""

    def __init__(self, title: str, is_quiet: bool) -> None:
        self._title, self._is_quiet = title, is_quiet
        self._told: set[int] = set()
        is_live = err.is_terminal and not err.is_dumb_terminal and not is_quiet
        self._live = Live(console=err, refresh_per_second=4, transient=True) if is_live else None

    def __enter__(self) -> Shown:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, items: Sequence[ItemResult]) -> None:
        """Show how the items stand now."""
        if self._is_quiet:
            return
        if self._live is not None:
            self._live.update(live_view(self._title, items, err.height - _ROWS_BESIDE))
            return
        for place, item in enumerate(items):
            if item.has_ended and place not in self._told:
                self._told.add(place)
                show_line(err, _line(item, len(self._told), len(items)))


def live_view(title: str, items: Sequence[ItemResult], height: int) -> Group:
    """A table of the items that matter now, no higher than the terminal, and a line that counts all."""
    table = Table(title=escape(f"Batch '{title}'"), title_justify="left", expand=True)
    for heading in ("item", "state", "stage", "outcome"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=2 if heading in ("item", "stage") else 1)
    table.add_column("time", justify="right", no_wrap=True)
    running = [item for item in items if item.state == "running"]
    ended = [item for item in items if item.has_ended]
    waiting = [item for item in items if not item.has_ended and item.state != "running"]
    room = max(3, height)
    shown = running[:room]
    shown += waiting[: max(0, min(3, room - len(shown)))]
    last = ended[len(ended) - max(0, room - len(shown)) :] if len(shown) < room else []
    for item in [*last, *shown]:
        stage = f"{item.stage} {item.done}/{item.total}" if item.total else item.stage
        table.add_row(escape(item.name), item.state, escape(stage), _word(item), _seconds(item.seconds))
    return Group(table, Text.from_markup(_counts(items)))


def show_end(items: Sequence[ItemResult], folder: Path) -> None:
    """The items that need someone, the counts, and where the results are."""
    from cluster.batch.results import Outcome, by_urgency

    calm = (Outcome.GREEN, Outcome.DONE, Outcome.WAITING)
    table = Table(title="Needs attention", title_justify="left")
    for heading in ("item", "outcome", "why"):
        table.add_column(heading, overflow="fold")
    for item in by_urgency(items):
        if item.outcome not in calm:
            reason = item.reasons[0] if item.reasons else ""
            short = reason if len(reason) <= _WIDEST_REASON else f"{reason[:_WIDEST_REASON]} ..."
            table.add_row(escape(item.name), _word(item), escape(f"{item.error}: {short}" if item.error else short))
    if table.row_count:
        out.print(table)
    show_line(out, _counts(items))
    failed = sum(item.outcome is Outcome.FAILED for item in items)
    if failed:
        show_line(out, f"{failed} could not be computed: the exit code is that of an error, whatever the verdicts are.")
    waiting = sum(item.outcome is Outcome.WAITING for item in items)
    if waiting:
        show_line(out, f"{waiting} are not done; run the same command again to go on.")
    out.print("[dim]Research and quality-assurance tool: it does not release a treatment.[/dim]")
    show_line(out, f"Overview: {escape(str(folder / 'overview.html'))}")


def _line(item: ItemResult, ended: int, total: int) -> str:
    told = f" {escape(item.error)}: {escape(item.reasons[0])}" if item.error and item.reasons else ""
    return f"{ended}/{total} {item.outcome.value} {escape(item.name)} {_seconds(item.seconds)}{told}".rstrip()


def _word(item: ItemResult) -> str:
    return f"[{_WORDS[item.outcome.value]}] {item.outcome.value} [/]" if item.has_ended else ""


def _counts(items: Sequence[ItemResult]) -> str:
    counts = Counter(item.outcome for item in items)
    known = [outcome for outcome in type(items[0].outcome) if counts[outcome]] if items else []
    words = " · ".join(f"{counts[outcome]} [{_WORDS[outcome.value]}] {outcome.value} [/]" for outcome in known)
    ended = sum(item.has_ended for item in items)
    return f"{ended} of {len(items)} ended: {words}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"
