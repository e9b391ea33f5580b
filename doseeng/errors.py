"""What can go wrong, drawn as one tree, and what went less than well, as plain notices.

A message says what was found, what was expected, where (file, tag, beam, structure) and what to do. It never
holds a patient's name or identifier.

    DoseengError
    ├── DicomError            a file, a tag or the chain of references between objects
    ├── GeometryError         grids, frames, patient positions
    ├── StructureError        contours and masks
    ├── PlanError             beams, spots, meterset, unsupported techniques
    ├── MachineError          beam models: unknown, malformed, energy out of range
    ├── MaterialError         HU tables and overrides
    ├── BackendUnavailable    a device that was asked for and is not there
    ├── MetricError           DVH and gamma asked something that has no answer
    ├── RegistrationError     images that cannot be brought together, transforms that are no transforms
    ├── ConfigError           TOML written by people
    ├── JobError              the service's jobs, its database and what it stored
    ├── PeerError             another system (archive, webhook, mail server) that refused or did not answer
    └── AccessError           who may not do what
"""

from dataclasses import dataclass


class DoseengError(Exception):
    """Base of all errors that doseeng raises on purpose."""


class DicomError(DoseengError):
    """A DICOM file, tag or reference between objects is missing, broken or unsupported."""


class GeometryError(DoseengError):
    """A grid, frame or patient position is impossible or unsupported."""


class StructureError(DoseengError):
    """A structure is empty, missing or its contours cannot be turned into a volume."""


class PlanError(DoseengError):
    """A plan or beam is invalid or uses a technique that is not supported."""


class MachineError(DoseengError):
    """A beam model is unknown, malformed or does not cover what the plan asks."""


class MaterialError(DoseengError):
    """A HU table is missing or malformed, or an override has no material meaning."""


class BackendUnavailable(DoseengError):
    """A backend was asked for by name that this machine cannot offer; the message says what is missing."""


class MetricError(DoseengError):
    """A DVH or gamma quantity was asked that the data cannot answer."""


class RegistrationError(DoseengError):
    """Two images cannot be brought together, or a transform is none (not invertible, not finite, of another shape)."""


class ConfigError(DoseengError):
    """Configuration written by a person has a wrong key or value; the message gives its path."""


class JobError(DoseengError):
    """A job does not exist, is in a state that forbids what was asked, or what it needs was lost or damaged."""


class PeerError(DoseengError):
    """Another system did not answer, or refused; the message says which and what it said."""


class AccessError(DoseengError):
    """A user, token or system is unknown, or may not do what was asked."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A named warning that travels with a result: nothing is guessed in silence.

    `code` is a stable kebab-case name ("dose-grid-clips-target"), `where` the object concerned (a beam, structure or
    file name without patient identity), `message` one sentence for a physicist.
    """

    code: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.code} [{self.where}]: {self.message}" if self.where else f"{self.code}: {self.message}"
