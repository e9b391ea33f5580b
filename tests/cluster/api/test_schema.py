"""Schemathesis over the whole API: no request makes an error of the service, and every answer is as it is described.

The same requests in every run. What the API refuses for what it means, and not for its form (a plan that is not there,
a batch that is), cannot be said in a schema: `positive_data_acceptance` is left out.
"""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks as specs

from cluster.security.access import Role
from tests.cluster.api.making import Service
from tests.cluster.api.table import TABLE

EXAMPLES = 10
"""Of every endpoint, of requests as described and likewise of those that are not."""
OF_ADMINS = ("/api/v1/users", "/api/v1/tokens", "/api/v1/audit")
"""All else is what physicists may."""
CHECKS = [
    not_a_server_error,
    specs.status_code_conformance,
    specs.content_type_conformance,
    specs.response_headers_conformance,
    specs.response_schema_conformance,
    specs.negative_data_rejection,
    specs.missing_required_header,
    specs.unsupported_method,
    specs.ignored_auth,
]


EXPECTED = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "429"]
CONFIG = SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": EXPECTED}}})
BOUNDARY = "XX"
NOTHING_TO_GET_WRONG = ("/health/live", "/health/ready")
OPERATIONS = [route for route in TABLE if not route[1].endswith("/openapi.json")]


@schemathesis.serializer("multipart/related")
def related(_context: schemathesis.SerializationContext, value: object) -> bytes:
    """One part with what was made up."""
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return head + data + f"\r\n--{BOUNDARY}--\r\n".encode()


@pytest.fixture(scope="module")
def described(filled: Service, plan_uid: str) -> schemathesis.BaseSchema:
    """The API as it describes itself, with a case and a job in it."""
    filled.ask(Role.PHYSICIST, "POST", "/jobs", json={"kind": "evaluate", "plan_uid": plan_uid})
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", filled.app, config=CONFIG)


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("route", OPERATIONS, ids=" ".join)
def test_api_is_as_described(
    described: schemathesis.BaseSchema, filled: Service, route: tuple[str, str], mode: GenerationMode
) -> None:
    method, path = route
    if mode is GenerationMode.NEGATIVE and path in NOTHING_TO_GET_WRONG:
        pytest.skip("takes no values that could be wrong")
    operation = described[path.replace(":path", "")][method]
    headers = filled.headers(Role.ADMIN if path.startswith(OF_ADMINS) else Role.PHYSICIST)

    if "/dicomweb/" in path:
        headers["Content-Type"] = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def every(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS)

    every()
