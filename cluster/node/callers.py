"""Who may call the node, and to which site an association belongs: by called and calling AE title, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cluster.service.config import ANYONE, ServiceConfig, Site


class Refusal(Enum):
    """Why an association is rejected: result, source and reason of A-ASSOCIATE-RJ (PS3.8 section 9.3.4, table 9-21).

    All are permanent and come from the service user.
    """

    CALLING_UNKNOWN = (1, 1, 3)
    CALLED_UNKNOWN = (1, 1, 7)


@dataclass(frozen=True, slots=True)
class Caller:
    """The other end of an association that was let in. address: of its host."""

    site: Site
    ae_title: str
    called_ae: str
    address: str


def site_of(config: ServiceConfig, called_ae: str, calling_ae: str) -> Site | Refusal:
    """The site that an association belongs to: the one that lists the caller, else the one that takes anyone's calls.
    AE titles are compared as they are, but for spaces around them."""
    called, calling = called_ae.strip(), calling_ae.strip()
    addressed = [site for site in config.site if (site.called_ae or config.dicom.ae_title).strip() == called]
    if not addressed:
        return Refusal.CALLED_UNKNOWN
    wanted = (calling, ANYONE) if calling else ()
    known = (site for title in wanted for site in addressed if title in (entry.strip() for entry in site.calling_ae))
    return next(known, Refusal.CALLING_UNKNOWN)
