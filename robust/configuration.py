"""The border: TOML files about goals and scenarios, read by strict models that answer a wrong key with its path."""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from doseeng.errors import ConfigError, MetricError
from doseeng.metrics import parse_metric

DATA_DIR: Final = Path(__file__).parent / "data"
"""TOML shipped with the package."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
DeliveryError = Annotated[float, Field(ge=-10.0, le=10.0, allow_inf_nan=False)]
"""Degrees, or millimetres of a leaf end; ten times what a machine is allowed, so that more is a typing error."""
Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """No unknown key, no conversion between types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _share_of_scenarios(value: object) -> object:
    words = {"all": 100.0, "nominal": 0.0}
    if isinstance(value, str):
        if value not in words:
            raise ValueError(f'\'{value}\' is not a scope; expected "all", "nominal" or a percentage of scenarios')
        return words[value]
    return value


def _one_or_three(value: object) -> object:
    return [value] * 3 if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Vector = Annotated[list[Finite], Field(min_length=3, max_length=3)]
AxisErrors = Annotated[list[NotNegative], Field(min_length=3, max_length=3), BeforeValidator(_one_or_three)]


class CoverageRow(Strict):
    """A goal for every target with a prescription. `band`: half-width in the unit of the goal, replacing the computed
    one. `in_scenarios`: "all", "nominal" or the percentage of scenarios that must meet the limit."""

    metric: str
    relation: Literal[">=", "<="]
    limit: Finite
    unit: Literal["%", "cm3", "Gy"]
    in_scenarios: Annotated[float, Field(ge=0, le=100), BeforeValidator(_share_of_scenarios)] = 100.0
    band: NotNegative | None = None

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str) -> str:
        try:
            parse_metric(metric)
        except MetricError as error:
            raise ValueError(str(error)) from error
        return metric

    @model_validator(mode="after")
    def _unit_fits(self) -> CoverageRow:
        metric = parse_metric(self.metric)
        allowed = ("cm3",) if metric.in_cm3 else ("%", "cm3") if metric.kind == "volume" else ("%", "Gy")
        if self.unit not in allowed:
            raise ValueError(f"{self.metric} cannot be given in {self.unit}; expected {' or '.join(allowed)}")
        return self


class GoalRow(CoverageRow):
    """A goal for one structure by its name in the case. optional: skip it with a notice where the structure is missing
    or empty. prescription_gy: what percent of dose means; the structure's own prescription when left out."""

    structure: str
    prescription_gy: Positive | None = None
    optional: bool = False


class UncertaintyTable(Strict):
    """dose_percent: half-width of the band of a dose, in percent of the prescription."""

    dose_percent: NotNegative = 1.0


class GoalFile(Strict):
    """goals.toml. `coverage` left out: the shipped coverage rule; `coverage = []`: none."""

    uncertainty: UncertaintyTable = UncertaintyTable()
    coverage: list[CoverageRow] | None = None
    goal: list[GoalRow] = []


class ScenarioRow(Strict):
    """One scenario. shift_mm: isocentre shift in patient axes. range_percent: change of the stopping powers (photons:
    of density). gantry_deg, collimator_deg, couch_deg, leaf_opening_mm: as in `doseeng.scenario.Scenario`."""

    name: Annotated[str, Field(min_length=1)]
    shift_mm: Vector = [0.0, 0.0, 0.0]
    range_percent: Annotated[float, Field(gt=-100, allow_inf_nan=False)] = 0.0
    gantry_deg: DeliveryError = 0.0
    collimator_deg: DeliveryError = 0.0
    couch_deg: DeliveryError = 0.0
    leaf_opening_mm: DeliveryError = 0.0


class SiteRow(Strict):
    """Largest errors of a treatment site. setup_mm: one number, or one per patient axis."""

    setup_mm: AxisErrors
    range_percent: NotNegative


class ScenarioFile(Strict):
    """A TOML file that lists scenarios one by one."""

    scenario: Annotated[list[ScenarioRow], Field(min_length=1)]


class SiteFile(Strict):
    """The shipped table of error magnitudes per treatment site."""

    site: dict[str, SiteRow]


def read_toml(path: Path, model: type[Model]) -> Model:
    """The file as `model`; ConfigError names the file, the path of the key and, for a wrong key, the nearest one."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read ({error.strerror or error}); check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: is not UTF-8 text; save it as UTF-8") from error
    return parse_toml(text, model, path.name)


def parse_toml(text: str, model: type[Model], file_name: str) -> Model:
    """TOML text as `model`; `file_name` is what errors call it. ConfigError as `read_toml`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file_name}: is not valid TOML: {error}") from error
    return checked(values, model, file_name)


def checked(values: Mapping[str, Any], model: type[Model], file_name: str) -> Model:
    """Values that were read, as `model`; `file_name` is what errors call their source. ConfigError as `read_toml`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(e, model, file_name) for e in error.errors())) from error


def _sentence(error: Any, model: type[BaseModel], file_name: str) -> str:
    location = error["loc"]
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    where = f"{file_name}: {path}" if path else file_name
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{where}: is missing"
    found = "" if isinstance(error["input"], dict) else f", found {error['input']!r}"
    return f"{where}: {str(error['msg']).removeprefix('Value error, ')}{found}"


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in typing.get_args(annotation))
    return next((model for model in found if model is not None), None)
