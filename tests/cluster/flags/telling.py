"""Messages, for tests that need no job."""

from datetime import UTC, datetime

from cluster.flags.message import Message
from tests.cluster.flags.making import GOALS

KEY = "0c1f9c4a-1a3b-4b2f-8d6e-2f8b5b7a9e33"


def message(verdict: str = "RED", rbe_weighted: bool = True) -> Message:
    has_result = verdict != "FAILED"
    return Message(
        site="north",
        job_id="job-1",
        kind="adapt",
        verdict=verdict,
        reasons=("CTV D95% is 91.25 %, the limit is 95 %.",) if has_result else ("GeometryError: the CT has a gap",),
        patient_key="p-0001",
        case_key="c-1",
        goals=tuple(GOALS) if has_result else (),
        rbe_weighted=rbe_weighted,
        is_flag=verdict != "GREEN",
        ended=datetime(2026, 7, 4, 9, 30, tzinfo=UTC),
    )
