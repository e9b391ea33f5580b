"""How a site's daily images are evaluated: the border between TOML that people write and plain numbers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, create_model, model_validator

from cluster.adaptation.result import ImageMethod
from doseeng.errors import ConfigError
from registration.accumulation import STEEPEST
from robust.configuration import GoalFile, NotNegative, Positive, Strict, read_toml

SHIPPED: Final = Path(__file__).parent / "data" / "adaptation.toml"
DEFAULT_SITE: Final = "default"


def _image_method(value: object) -> object:
    words = [method.value for method in ImageMethod]
    if isinstance(value, str) and not isinstance(value, ImageMethod):
        if value not in words:
            raise ValueError(f"is no image method; expected one of {', '.join(words)}")
        return ImageMethod(value)
    return value


class AdaptSettings(Strict):
    """What an evaluation of a day depends on; adaptation.toml explains the keys and where the numbers come from."""

    image_method: Annotated[ImageMethod, BeforeValidator(_image_method)]
    image_percent: NotNegative
    registration_sigma_mm: NotNegative
    registration_correlation_mm: Positive
    perturbed_deformations: Annotated[int, Field(ge=0, le=1000)]
    dose_percent: NotNegative
    dose_transfer: Literal["direct", "energy-mass"]
    couch: Literal["six-dof", "translation"]
    couch_shift_mm: NotNegative
    couch_rotation_deg: NotNegative
    residual_setup_mm: NotNegative
    residual_range_percent: Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _deformations_do_not_fold(self) -> AdaptSettings:
        if self.registration_sigma_mm > STEEPEST * self.registration_correlation_mm:
            raise ValueError(
                f"registration_sigma_mm {self.registration_sigma_mm:g} is more than {STEEPEST:g} of "
                f"registration_correlation_mm {self.registration_correlation_mm:g}; so rough a deformation folds"
            )
        return self


def _optional(annotation: Any, constraints: list[Any]) -> Any:
    """The same type with the same constraints, or left out."""
    for constraint in constraints:
        annotation = Annotated[annotation, constraint]
    return annotation | None, None


_ROW: Final = {name: _optional(field.annotation, field.metadata) for name, field in AdaptSettings.model_fields.items()}
_SiteRow: Any = create_model("_SiteRow", __base__=Strict, **_ROW)
"""Settings too, but each may be left out. Any: mypy takes no made class for a type."""
_SiteFile: Final = create_model("_SiteFile", __base__=Strict, site=(dict[str, _SiteRow], ...))


def site_settings(
    site: str = DEFAULT_SITE, file: Path | None = None, method: ImageMethod | None = None
) -> AdaptSettings:
    """The settings of a site: shipped defaults, then the shipped site, then the same two of a clinic's own file.

    method: instead of the site's image method. ConfigError for a site that neither file has, and as
    `robust.configuration.read_toml` for a file that is wrong.
    """
    files = [_rows(path) for path in (SHIPPED, file) if path is not None]
    known = set[str]().union(*files)
    if site not in known:
        near = difflib.get_close_matches(site, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(sorted(known))}"
        raise ConfigError(f"site '{site}' is unknown; {hint}")
    values: dict[str, object] = {}
    for rows in files:
        values |= rows.get(DEFAULT_SITE, {}) | rows.get(site, {})
    if method is not None:
        values["image_method"] = method
    try:
        return AdaptSettings.model_validate(values)
    except ValidationError as error:
        said = "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
        raise ConfigError(f"site '{site}': {said}") from error


def dose_percent(settings: AdaptSettings, goals: GoalFile, is_own: bool) -> float:
    """The band of a dose from the engine in percent: that of a person's own goals file where it says one."""
    says_one = is_own and "uncertainty" in goals.model_fields_set
    return goals.uncertainty.dose_percent if says_one else settings.dose_percent


def _rows(path: Path) -> dict[str, dict[str, object]]:
    rows: dict[str, dict[str, object]] = read_toml(path, _SiteFile).model_dump(exclude_unset=True)["site"]
    return rows
