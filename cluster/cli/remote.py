"""`doseeng remote`: a service from the command line of another machine, by address and token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import ExitCode, badge, err, out, print_json, show_line, staged_progress_bar
from doseeng.errors import PeerError
from robust.result import Verdict

if TYPE_CHECKING:
    from cluster.client import Client, RemoteJob

app = typer.Typer(
    no_args_is_help=True,
    help="Ask a service that runs elsewhere. Its address is in DOSEENG_URL, your token in DOSEENG_TOKEN.",
)

Plan = Annotated[str, typer.Argument(help="SOP Instance UID of the plan.", metavar="PLAN_UID")]
JobName = Annotated[str, typer.Argument(help="Id of the job.", metavar="JOB")]
Authority = Annotated[
    Path | None, typer.Option("--authority", envvar="DOSEENG_AUTHORITY", help="PEM file of who signed its certificate.")
]
Folder = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the files of the result.")]
_EXITS: Final = {verdict.value: ExitCode[verdict.value] for verdict in Verdict}


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(exists=True, help="Folder, ZIP archive or DICOM file.")],
    authority: Authority = None,
    as_json: options.Json = False,
) -> None:
    """Send DICOM objects."""
    with _client(authority) as client:
        sent = client.upload(path)
    if as_json:
        print_json({"objects": list(sent.objects), "refused": sent.refused})
        return
    for name, reason in sent.refused.items():
        show_line(err, f"[yellow]![/yellow] {escape(name)}: {escape(reason)}")
    new = sum(entry["is_new"] for entry in sent.objects)
    show_line(out, f"{len(sent.objects)} objects taken, {new} of them new, {len(sent.refused)} files refused.")


@app.command()
def plans(authority: Authority = None, as_json: options.Json = False) -> None:
    """List the plans of your site."""
    with _client(authority) as client:
        found = client.plans()
    if as_json:
        print_json({"plans": found})
        return
    columns = ("plan_uid", "label", "role", "patient_key", "received_at")
    out.print(_table("Plans", columns, found))


@app.command()
def dose(plan: Plan, folder: Folder = None, authority: Authority = None, as_json: options.Json = False) -> None:
    """Recalculate a plan, and wait for it."""
    with _client(authority) as client:
        _finish(client, client.dose(plan), folder, as_json)


@app.command()
def evaluate(plan: Plan, folder: Folder = None, authority: Authority = None, as_json: options.Json = False) -> None:
    """Judge the robustness of a plan, and wait for it."""
    with _client(authority) as client:
        _finish(client, client.evaluate(plan), folder, as_json)


@app.command()
def adapt(
    plan: Plan,
    series: Annotated[str, typer.Argument(help="Series Instance UID of the day's image.", metavar="SERIES_UID")],
    folder: Folder = None,
    authority: Authority = None,
    as_json: options.Json = False,
) -> None:
    """Judge a plan on the image of a treatment day, and wait for it."""
    with _client(authority) as client:
        _finish(client, client.adapt(plan, series), folder, as_json)


@app.command()
def fetch(job: JobName, folder: Folder = None, authority: Authority = None, as_json: options.Json = False) -> None:
    """Wait for a job, and fetch its files."""
    with _client(authority) as client:
        _finish(client, client.job(job), folder, as_json)


@app.command()
def worklist(authority: Authority = None, as_json: options.Json = False) -> None:
    """List what somebody has to look at."""
    with _client(authority) as client:
        found = client.worklist()
    if as_json:
        print_json({"worklist": found})
        return
    out.print(_table("Worklist", ("id", "verdict", "headline", "patient_key", "created_at"), found))


@app.command()
def acknowledge(
    flag: Annotated[str, typer.Argument(help="Id of the flag.", metavar="FLAG")],
    comment: Annotated[str, typer.Option("--comment", "-m", help="What was decided.")] = "",
    authority: Authority = None,
) -> None:
    """Take note of a flag, in your own name and for good."""
    with _client(authority) as client:
        client.acknowledge(flag, comment)


@contextmanager
def _client(authority: Path | None) -> Iterator[Client]:
    # Loaded when it is used: the command line starts without an HTTP library.
    from cluster.client import Client

    with Client(authority=str(authority or "")) as client:
        yield client


def _finish(client: Client, job: RemoteJob, folder: Path | None, as_json: bool) -> None:
    """Wait for a job, fetch its files and end the process with the code of its verdict."""
    with staged_progress_bar(quiet=as_json) as tell:
        done = client.wait(job, tell)
    files = []
    if folder is not None:
        for name in done.artifacts:
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise PeerError(f"the service names a file '{name}' that lies outside the folder; ask its admin why")
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(str(client.download(done, name, path)))
    if as_json:
        print_json({"job": done.id, "verdict": done.verdict, "summary": done.summary, "files": files})
    else:
        word = f"{badge(Verdict(done.verdict))} " if done.verdict else ""
        show_line(out, f"{word}job {done.id} is done" + (f"; {len(files)} files in {folder}" if files else ""))
        for reason in done.summary.get("reasons", ()):
            show_line(out, f"  {escape(str(reason))}")
    raise typer.Exit(_EXITS.get(done.verdict, ExitCode.GREEN))


def _table(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(row[column])) for column in columns))
    return table
