"""What may be asked of each kind of job: the border shared by the API, the batch manifest, the rules and the courses.

A spec must be complete, so that equal specs give equal results: files that people write are in it as text, machine
models by the digest of their files.
"""

# ruff: noqa: RUF012 (pydantic copies the defaults of a model)
from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, field_validator

from cluster.adaptation.oneday import PackageWhen
from cluster.adaptation.result import ImageMethod
from cluster.adaptation.settings import DEFAULT_SITE
from cluster.jobs.model import JobKind
from doseeng.errors import ConfigError
from doseeng.materials import DEFAULT_TABLE
from doseeng.preparation import DEFAULT_SPACING_MM
from robust.configuration import GoalFile, Strict, checked, parse_toml

MAX_TEXT: Final = 1_000_000
"""Characters of a TOML file in a spec; the longest shipped one has 90,000."""
Toml = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MachineFile = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}\.toml$")]


class CaseOptions(Strict):
    """Of every kind. machine: of all beams instead of those the plan names, "" for none. machines: name of a file in a
    machine folder -> SHA-256 of its bytes in the blob store; made with the spec. hu_table: name of a shipped table, or
    the text of one. spacing_mm: dose grid where the case brings no dose of its own. algorithm: of photon plans, "" for
    the kind's own. backend: as `doseeng.backend.choose`."""

    accept_patient_mismatch: bool = False
    machine: Annotated[str, StringConstraints(max_length=128)] = ""
    machines: dict[MachineFile, Sha256] = {}
    hu_table: Toml = DEFAULT_TABLE
    spacing_mm: Annotated[float, Field(ge=0.5, le=10.0, allow_inf_nan=False)] = DEFAULT_SPACING_MM
    algorithm: Literal["", "pencil", "collapsed-cone"] = ""
    backend: Literal["auto", "cpu", "cuda"] = "auto"


class DoseOptions(CaseOptions):
    """As `doseeng dose`. physical: of protons, instead of what the planning system reports. dose_to: of photons, "" for
    the medium."""

    physical: bool = False
    dose_to: Literal["", "medium", "water"] = ""


def _is_goals(text: str) -> str:
    if text:
        try:
            parse_toml(text, GoalFile, "goals.toml")
        except ConfigError as error:
            raise ValueError(str(error)) from error
    return text


class EvaluateOptions(CaseOptions):
    """As `doseeng evaluate`. scenarios: name of a set, "" for that of the plan's modality, or the text of a list.
    goals: text of goals.toml, "" for the shipped coverage rule."""

    scenarios: Toml = ""
    treatment_site: str = DEFAULT_SITE
    setup_mm: Annotated[float, Field(ge=0.0, le=100.0, allow_inf_nan=False)] | None = None
    range_percent: Annotated[float, Field(ge=0.0, le=20.0, allow_inf_nan=False)] | None = None
    goals: Toml = ""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0

    @field_validator("goals")
    @classmethod
    def _goals_are_goals(cls, text: str) -> str:
        return _is_goals(text)


class AdaptOptions(CaseOptions):
    """As `doseeng adapt`. settings, gates, goals: texts of the TOML files, "" for what is shipped. method: "" for the
    treatment site's. fraction: number of this one, None for the next of the course."""

    treatment_site: str = DEFAULT_SITE
    settings: Toml = ""
    gates: Toml = ""
    goals: Toml = ""
    method: Literal["", "virtual-ct", "corrected", "as-is"] = ""
    robust: bool = False
    package_when: Literal["red", "always", "never"] = "red"
    fraction: Annotated[int, Field(ge=1, le=1000)] | None = None

    @field_validator("goals")
    @classmethod
    def _goals_are_goals(cls, text: str) -> str:
        return _is_goals(text)

    @property
    def package(self) -> PackageWhen:
        """`package_when` as the workflow takes it."""
        return PackageWhen(self.package_when)

    @property
    def image_method(self) -> ImageMethod | None:
        """`method` as the settings take it."""
        return ImageMethod(self.method) if self.method else None


Options = DoseOptions | EvaluateOptions | AdaptOptions

OPTIONS_OF: Final[dict[JobKind, type[DoseOptions] | type[EvaluateOptions] | type[AdaptOptions]]] = {
    JobKind.DOSE: DoseOptions,
    JobKind.EVALUATE: EvaluateOptions,
    JobKind.ADAPT: AdaptOptions,
}


def options_from(kind: JobKind, values: dict[str, Any]) -> Options:
    """Plain data as the options of a kind; ConfigError names the key that is wrong, and the nearest one."""
    return checked(values, OPTIONS_OF[kind], f"options of {kind.value}")
