"""`doseeng cluster`: a Ray head node on this machine, for `executor.kind = "ray"`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from cluster.cli import options
from cluster.cli.console import err, out, print_json, show_line

app = typer.Typer(no_args_is_help=True, help="A Ray head node on this machine, for work on many cores or machines.")

Host = Annotated[
    str, typer.Option("--host", help="Address it listens at; other machines can join at one of the network's alone.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of its control store; 0 takes a free one.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Units at the same time; 0 for one per core.")]
Gpus = Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs to use instead of those that are found.")]


@app.command()
def up(
    host: Host = "127.0.0.1", port: Port = 6379, workers: Workers = 0, gpus: Gpus = None, as_json: options.Json = False
) -> None:
    """Start a head node: token authentication on, dashboard off. Says how the service uses it and how others join."""
    from cluster.executor.ray_cluster import start_head
    from cluster.executor.ray_settings import is_loopback

    with err.status("Starting Ray", spinner="dots"):
        head = start_head(host, port, workers, gpus)
    if as_json:
        print_json(asdict(head))
        return
    show_line(out, f"Ray listens at [bold]{escape(head.address)}[/bold] with {head.workers} workers.")
    show_line(out, escape('\nIn doseeng.toml:\n\n[executor]\nkind = "ray"'))
    show_line(out, escape(f'address = "{head.address}"\n'))
    if is_loopback(host):
        show_line(out, "Only this machine can use it. For more machines start it with --host and this one's address.")
        return
    show_line(out, "On each further machine, with the same doseeng installed:\n")
    show_line(out, escape(f"  copy {head.token} to ~/.ray/auth_token, readable by its user alone"))
    show_line(out, escape(f"  RAY_AUTH_MODE=token ray start --address={head.address} --disable-usage-stats\n"))
    show_line(err, "[yellow]![/yellow] Whoever has the token can run anything here, and the traffic is not encrypted: ")
    show_line(err, "  keep its ports within a network of its own, or set up Ray's TLS.")


@app.command()
def status(as_json: options.Json = False) -> None:
    """Where the head node of this user runs."""
    from cluster.executor.ray_cluster import running_head

    head = running_head()
    if as_json:
        print_json(asdict(head) if head else {})
    elif head is None:
        out.print("No head node runs; `doseeng cluster up` starts one.")
    else:
        show_line(out, f"Ray listens at [bold]{escape(head.address)}[/bold] with {head.workers} workers.")
        show_line(out, escape(f"process {head.pid}, log {head.log}"))


@app.command()
def down() -> None:
    """End the head node of this user, and all units on it. Jobs that ran go back to the queue."""
    from cluster.executor.ray_cluster import stop_head

    with err.status("Ending Ray", spinner="dots"):
        head = stop_head()
    show_line(out, "No head node runs." if head is None else f"Ray at {escape(head.address)} has ended.")
