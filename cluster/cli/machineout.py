"""What every command that makes a machine does with it: write it where it is wanted and tell about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.markup import escape

from cluster.cli.console import out, print_json, show_line, show_notices
from doseeng.errors import Notice
from doseeng.machines.file import write_machine
from doseeng.machines.library import Machine, any_machine_hash, beam_quality, install_machine
from doseeng.machines.photonfile import write_photon_machine
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.photonphysics import mean_energy_mev


def keep(
    machine: Machine, notices: Sequence[Notice], alias: list[str] | None, output: Path | None, as_json: bool
) -> None:
    """Write a machine, under the aliases asked for if there are any, and tell about it."""
    named = replace(machine, aliases=tuple(alias or machine.aliases))
    tell(named, write(named, output), notices, as_json)


def write(machine: Machine, output: Path | None) -> Path:
    """Write a machine to a file, or install it for this user where none is given; the path."""
    if output is None:
        return install_machine(machine)
    if isinstance(machine, PhotonMachine):
        write_photon_machine(machine, output)
    else:
        write_machine(machine, output)
    return output


def tell(machine: Machine, path: Path, notices: Sequence[Notice], as_json: bool, **more: object) -> None:
    """Say where a machine is; more: what a command adds to the result for programs."""
    if as_json:
        told = {"machine": summary(machine), "file": str(path), "notices": [asdict(n) for n in notices]}
        print_json({**told, **more})
        return
    show_notices(notices)
    what = beam_quality(machine) if isinstance(machine, PhotonMachine) else f"{len(machine.energy_mev)} energies"
    show_line(out, f"Machine '{escape(machine.name)}' ({what}) written to {escape(str(path))}")


def summary(machine: Machine) -> dict[str, object]:
    """A machine in the result for programs."""
    common = {
        "name": machine.name,
        "version": machine.version,
        "aliases": list(machine.aliases),
        "source": machine.source,
        "sha256": any_machine_hash(machine),
    }
    if isinstance(machine, PhotonMachine):
        return {
            **common,
            "kind": "photon",
            "energy_mv": machine.energy_mv,
            "fluence_mode": machine.fluence_mode,
            "source_axis_mm": machine.source_axis_mm,
            "reference": asdict(machine.reference),
            "mean_energy_mev": mean_energy_mev(machine.spectrum_mev, machine.spectrum_weight),
            "head": asdict(machine.head),
            "electrons": asdict(machine.electrons),
            "jaws": asdict(machine.jaws),
            "leaves": [asdict(leaf) for leaf in machine.leaves],
            "wedges": {wedge.id: wedge.angle_deg for wedge in machine.wedges},
        }
    return {
        **common,
        "kind": "proton",
        "energy_mev": machine.energy_mev.tolist(),
        "range_mm": machine.range_mm.tolist(),
    }
