"""Services of two sites on SQLite with users of every role; no job is ever computed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from fastapi.testclient import TestClient

from cluster.api.app import create_app
from cluster.security.access import Role
from cluster.security.passwords import Passwords
from cluster.security.users import Users
from cluster.service.config import Api, Destination, Oidc, ServiceConfig, Site
from cluster.service.services import open_services
from tests.cluster.api.making import AWAY, HERE, THERE, Service

NOTHING: Mapping[str, Any] = {}


@pytest.fixture(scope="module")
def service_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Makes services with a configuration of the API, and more about the site HERE."""
    open_ones: list[Service] = []

    def make(oidc: Oidc | None = None, site: Mapping[str, Any] = NOTHING, **api: object) -> Service:
        folder = tmp_path_factory.mktemp("service")
        api = {"logins_per_minute": 10_000, "requests_per_minute": 100_000} | api
        away = Destination(name=AWAY, kind="webhook", url="http://127.0.0.1:9/", secret="a secret of a test")
        sites = [Site(name=HERE, calling_ae=["CT1"], destination=[away], **site), Site(name=THERE, calling_ae=["CT2"])]
        config = ServiceConfig(data_dir=str(folder), api=Api(**api), site=sites, oidc=oidc)  # type: ignore[arg-type]
        opened = open_services(config)
        # What a hash costs is the business of the tests of passwords.
        quick = Users(opened.database, Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)))
        services = replace(opened, users=quick)
        tokens = {}
        for site in (HERE, THERE):
            for role in Role:
                services.users.add(site, f"a-{role.value}", role)
                tokens[site, role] = services.users.issue_token(site, f"a-{role.value}", "tests", 1)
        app = create_app(services)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        open_ones.append(Service(services, app, client, tokens))
        return open_ones[-1]

    yield make
    for service in open_ones:
        service.client.__exit__()


@pytest.fixture(scope="session")
def case_folder(water_case: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan with its structure set, CT and dose as DICOM files."""
    return water_case.write(tmp_path_factory.mktemp("case") / "water")  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def service(service_of: Callable[..., Service]) -> Service:
    """A service with nothing in it yet."""
    return service_of()


@pytest.fixture(scope="module")
def filled(service: Service, case_folder: Path) -> Service:
    """The service with one case at one site."""
    answer = service.upload(case_folder)
    assert answer.status_code == 200, answer.text
    assert answer.json()["refused"] == []
    return service


@pytest.fixture(scope="module")
def plan_uid(filled: Service) -> str:
    """Of that case."""
    (plan,) = filled.ask(Role.VIEWER, "GET", "/plans").json()
    return str(plan["plan_uid"])
