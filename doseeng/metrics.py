"""Numbers that clinics read off a DVH (ICRU Report 83, 2010; AAPM TG-263 names).

V95%         percent of the structure that receives at least 95 % of the prescription
V20Gy        percent of the structure that receives at least 20 Gy
V20Gy[cm3]   the same in cm3 (also V95%[cm3])
D95%         the dose in Gy that the hottest 95 % of the structure receive at least (D50% is the median)
D2cm3        the dose in Gy that the hottest 2 cm3 receive at least
Dmean  Dmax  Dmin   in Gy
gEUD8        generalised equivalent uniform dose in Gy, a = 8 (Niemierko, Med Phys 26 (1999) 1100)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from doseeng.dvh import DoseSamples, cumulative_percent
from doseeng.errors import MetricError

_FORMS: Final = "V95%, V20Gy, V20Gy[cm3], D95%, D2cm3, Dmean, Dmax, Dmin or gEUD8"
_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_VOLUME: Final = re.compile(rf"V{_NUMBER}(%|Gy)(\[cm3\])?")
_DOSE: Final = re.compile(rf"D{_NUMBER}(%|cm3)")
_GEUD: Final = re.compile(rf"gEUD(-?){_NUMBER}")


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric's name says.

    kind "volume": the volume that receives `amount` `of` ("%" of the prescription, or "Gy"); in_cm3 asks for cm3 in
    place of percent. kind "dose": the dose to `amount` `of` ("%" or "cm3") of the structure. kind "geud": amount is a.
    """

    kind: Literal["volume", "dose", "mean", "max", "min", "geud"]
    amount: float = 0.0
    of: Literal["%", "Gy", "cm3", ""] = ""
    in_cm3: bool = False


_PLAIN: Final = {"Dmean": Metric("mean"), "Dmax": Metric("max"), "Dmin": Metric("min")}


def parse_metric(name: str) -> Metric:
    """The meaning of a metric's name; MetricError lists the forms when it has none."""
    if name in _PLAIN:
        return _PLAIN[name]
    if found := _VOLUME.fullmatch(name):
        return Metric("volume", float(found[1]), "%" if found[2] == "%" else "Gy", in_cm3=found[3] is not None)
    if found := _DOSE.fullmatch(name):
        metric = Metric("dose", float(found[1]), "%" if found[2] == "%" else "cm3")
        if metric.of == "%" and metric.amount > 100:
            raise MetricError(f"metric '{name}' asks for more than 100 % of the structure")
        return metric
    if (found := _GEUD.fullmatch(name)) and float(found[2]) != 0:
        return Metric("geud", float(found[1] + found[2]))
    raise MetricError(f"metric '{name}' is unknown; expected a form like {_FORMS} (case-sensitive, no blanks)")


def evaluate_metric(samples: DoseSamples, name: str, prescription_gy: float | None = None) -> float:
    """A metric by name, in Gy (doses), percent of the structure or cm3 (volumes).

    It describes the part of the structure inside the dose grid (`samples.covered`). prescription_gy: what the percent
    of "V95%" refers to. MetricError for an unknown name, a missing prescription, a volume larger than the structure,
    and a structure outside the dose grid.
    """
    metric = parse_metric(name)
    if not len(samples.dose_gy):
        raise MetricError(f"{name} of '{samples.structure}': the structure lies outside the dose grid")
    dose = samples.dose_gy
    match metric.kind:
        case "mean":
            return float(np.average(dose.astype(np.float64), weights=samples.weight_cm3))
        case "max":
            return float(dose[-1])
        case "min":
            return float(dose[0])
        case "geud":
            return geud(samples, metric.amount)
        case "volume":
            return _volume_at_dose(samples, name, metric, prescription_gy)
        case "dose":
            return _dose_at_volume(samples, name, metric)


def geud(samples: DoseSamples, a: float) -> float:
    """Generalised equivalent uniform dose in Gy: (sum of v d^a)^(1/a) over volume shares v (Niemierko 1999)."""
    dose = np.maximum(samples.dose_gy.astype(np.float64), 0.0)
    highest = dose[-1]
    if highest == 0 or (a < 0 and dose[0] == 0):
        return 0.0
    # Relative to the highest dose, so that large exponents neither overflow nor vanish.
    mean = float(np.average((dose / highest) ** a, weights=samples.weight_cm3))
    return float(highest * mean ** (1.0 / a))


def homogeneity_index(target: DoseSamples) -> float:
    """(D2% - D98%) / D50%, 0 for a uniform dose (ICRU Report 83)."""
    low, middle, high = (evaluate_metric(target, name) for name in ("D98%", "D50%", "D2%"))
    if middle <= 0:
        raise MetricError(f"homogeneity of '{target.structure}': its median dose is {middle:.3g} Gy")
    return (high - low) / middle


def conformity_rtog(target: DoseSamples, body: DoseSamples, prescription_gy: float) -> float:
    """Volume of the prescription isodose in the body over the target's (Shaw et al., IJROBP 27 (1993) 1231)."""
    return _reached_cm3(body, prescription_gy) / _sampled_cm3(target)


def conformity_paddick(target: DoseSamples, body: DoseSamples, prescription_gy: float) -> float:
    """Squared overlap of target and prescription isodose over the product of their volumes, 1 at best.

    Paddick, J Neurosurg 93 Suppl 3 (2000) 219.
    """
    isodose = _reached_cm3(body, prescription_gy)
    overlap = _reached_cm3(target, prescription_gy)
    return overlap * overlap / (_sampled_cm3(target) * isodose) if overlap > 0 else 0.0


def _volume_at_dose(samples: DoseSamples, name: str, metric: Metric, prescription_gy: float | None) -> float:
    threshold_gy = metric.amount
    if metric.of == "%":
        if prescription_gy is None or prescription_gy <= 0:
            raise MetricError(
                f"{name} of '{samples.structure}': percent of dose needs a prescription, found {prescription_gy}; name "
                "one or ask for a dose in Gy"
            )
        threshold_gy = metric.amount / 100.0 * prescription_gy
    return _reached_cm3(samples, threshold_gy) if metric.in_cm3 else float(cumulative_percent(samples, threshold_gy))


def _dose_at_volume(samples: DoseSamples, name: str, metric: Metric) -> float:
    whole_cm3 = _sampled_cm3(samples)
    wanted_cm3 = metric.amount / 100.0 * whole_cm3 if metric.of == "%" else metric.amount
    if wanted_cm3 > whole_cm3:
        raise MetricError(
            f"{name} of '{samples.structure}': the structure has only {whole_cm3:.3g} cm3 in the dose grid; ask for a "
            "smaller volume or a percentage"
        )
    hottest_first = samples.weight_cm3[::-1].astype(np.float64)
    # Each sample's dose belongs to the middle of the volume it stands for.
    received_cm3 = np.cumsum(hottest_first) - hottest_first / 2
    return float(np.interp(wanted_cm3, received_cm3, samples.dose_gy[::-1]))


def _reached_cm3(samples: DoseSamples, threshold_gy: float) -> float:
    return float(cumulative_percent(samples, threshold_gy)) / 100.0 * _sampled_cm3(samples)


def _sampled_cm3(samples: DoseSamples) -> float:
    return samples.volume_cm3 * samples.covered
