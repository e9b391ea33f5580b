"""What every command shows alike: progress and notes on stderr, results on stdout, errors with their class name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from doseeng.errors import Notice
from robust.result import Verdict

out = Console()
err = Console(stderr=True)


class ExitCode(IntEnum):
    """What the process returns; programs branch on it."""

    GREEN = 0
    AMBER = 1
    RED = 2
    UNEVALUABLE = 3
    ERROR = 4
    INTERRUPTED = 130


STYLES: Final = {
    Verdict.GREEN: "bold white on green4",
    Verdict.AMBER: "bold black on orange1",
    Verdict.RED: "bold white on red3",
    Verdict.UNEVALUABLE: "bold white on grey35",
}


def print_json(data: dict[str, Any]) -> None:
    """Results for programs."""
    out.print_json(json.dumps(data, allow_nan=False, default=str))


def show_error(kind: str, message: str, as_json: bool) -> None:
    """One error, for people on stderr or for programs as JSON on stdout."""
    if as_json:
        print_json({"error": {"type": kind, "message": message}})
    else:
        show_line(err, f"[bold red]{kind}[/bold red]: {escape(message)}")


def show_line(console: Console, markup: str) -> None:
    """Text that only the terminal may wrap, so that paths and messages can be copied and searched for."""
    console.print(markup, soft_wrap=True, highlight=False)


def show_notices(notices: Iterable[Notice]) -> None:
    """Named warnings, one line each."""
    for notice in dict.fromkeys(notices):
        where = f" [dim]{escape(notice.where)}[/dim]" if notice.where else ""
        show_line(err, f"[yellow]![/yellow] [bold]{notice.code}[/bold]{where} {escape(notice.message)}")


def badge(verdict: Verdict) -> str:
    """The verdict as coloured word."""
    return f"[{STYLES[verdict]}] {verdict.value} [/]"


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; the yielded function takes (done, total)."""
    with staged_progress_bar(quiet) as tell:
        yield lambda done, total: tell(title, done, total)


@contextmanager
def staged_progress_bar(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for work in stages; the yielded function takes (stage, done, total)."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)
