"""What the options of a job hold as text or digest, as the engine takes it: files in the job's own folder, read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.adaptation.settings import AdaptSettings, site_settings
from cluster.executor.placement import unit_backend
from cluster.storage.blobs import BlobStore
from cluster.workflows.options import AdaptOptions, CaseOptions, EvaluateOptions
from doseeng.case import Case
from doseeng.engine import EngineSettings, Prepared, prepare
from doseeng.errors import ConfigError
from doseeng.grid import Grid
from doseeng.materials import HuTable, read_hu_table
from doseeng.photon import Algorithm, PhotonSettings
from registration.gatesettings import GateLimits, read_limits
from robust.goals import read_goal_file
from robust.scenarios import load_scenarios, site_errors


@dataclass(frozen=True, slots=True, eq=False)
class EngineInputs:
    """What a dose needs besides the case. machine_folders: below the job's folder."""

    options: CaseOptions
    hu_table: HuTable
    machine_folders: tuple[Path, ...]

    def prepare(self, case: Case, settings: EngineSettings, grid: Grid | None = None) -> Prepared:
        """The case ready for doses; errors as `doseeng.engine.prepare`."""
        return prepare(
            case,
            machine=self.options.machine or None,
            machine_folders=self.machine_folders,
            hu_table=self.hu_table,
            grid=grid,
            settings=settings,
            backend=unit_backend(self.options.backend),
        )

    def photon(self, case: Case, usual: Algorithm, to_water: bool = False) -> PhotonSettings:
        """ConfigError for a proton plan that is given an algorithm, which would be ignored."""
        if self.options.algorithm and case.plan.modality != "photon":
            raise ConfigError(
                f"algorithm {self.options.algorithm} is for photon plans, plan '{case.plan.label}' has proton beams"
            )
        return PhotonSettings(algorithm=Algorithm(self.options.algorithm or usual), to_water=to_water)


def engine_inputs(options: CaseOptions, blobs: BlobStore, folder: Path) -> EngineInputs:
    """HU table and machine models of the options; JobError when the bytes of a model are gone, MaterialError for a
    table that is none."""
    machines = folder / "machines"
    for name, sha256 in sorted(options.machines.items()):
        machines.mkdir(parents=True, exist_ok=True)
        blobs.copy_to(sha256, machines / name)
    return EngineInputs(options, hu_table_of(options, folder), (machines,) if options.machines else ())


def hu_table_of(options: CaseOptions, folder: Path) -> HuTable:
    """The shipped table of a name, or the one that the options hold the text of."""
    path = text_file(options.hu_table if is_text(options.hu_table) else "", folder / "hu-table.toml")
    return read_hu_table(path or options.hu_table)


def goals_file(options: EvaluateOptions | AdaptOptions, folder: Path) -> Path | None:
    """The goals as a file, None for the shipped ones."""
    return text_file(options.goals, folder / "goals.toml")


def scenarios_of(options: EvaluateOptions, folder: Path) -> str | None:
    """As `cluster.robustness.RobustnessRequest` takes them: the name of a set, the path of a list, None for the usual
    set."""
    path = text_file(options.scenarios if is_text(options.scenarios) else "", folder / "scenarios.toml")
    return str(path) if path else options.scenarios or None


def settings_of(options: AdaptOptions, folder: Path) -> AdaptSettings:
    """Of the treatment site; ConfigError as `site_settings`."""
    own = text_file(options.settings, folder / "settings.toml")
    return site_settings(options.treatment_site, own, options.image_method)


def limits_of(options: AdaptOptions, folder: Path) -> GateLimits:
    """Of the quality gates; ConfigError as `read_limits`."""
    return read_limits(text_file(options.gates, folder / "gates.toml"))


def require_sound(options: CaseOptions, folder: Path) -> None:
    """What a job would find wrong with its options before it looks at the case, by the same functions."""
    hu_table_of(options, folder)
    if isinstance(options, AdaptOptions):
        settings_of(options, folder)
        limits_of(options, folder)
    if isinstance(options, EvaluateOptions):
        site_errors(options.treatment_site)
        scenarios = scenarios_of(options, folder)
        if scenarios is not None and scenarios.endswith(".toml"):
            load_scenarios(Path(scenarios))
    if isinstance(options, EvaluateOptions | AdaptOptions):
        read_goal_file(goals_file(options, folder))


def is_text(value: str) -> bool:
    """Whether an option that takes a name or the text of a TOML file holds the text: no name has an equals sign."""
    return "=" in value


def text_file(text: str, path: Path) -> Path | None:
    """`text` as a file, None where there is none."""
    if not text:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
