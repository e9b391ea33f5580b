"""The service's configuration: one TOML file, environment variables over it, errors that name the key.

DOSEENG_API__PORT=9000 sets `port` in `[api]`; values are read as TOML and, where they are none, as text.
Paths are relative to the file they stand in.
"""

# ruff: noqa: RUF012 (pydantic copies the defaults of a model)
from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from doseeng.errors import ConfigError
from robust.configuration import Positive, Strict, checked

PREFIX: Final = "DOSEENG_"
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
ANYONE: Final = "*"
"""In place of an AE title: whoever calls."""
SITE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def _site_name(name: str) -> str:
    if not SITE_NAME.fullmatch(name):
        raise ValueError("is no site name; expected lower-case letters, digits and hyphens, such as 'north'")
    return name


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from error
    return text


SiteName = Annotated[str, AfterValidator(_site_name)]
Pattern = Annotated[str, AfterValidator(_pattern)]
AeTitle = Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,16}$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Positive


class Tls(Strict):
    """certificate, key: PEM files. authority: PEM of those whose client certificates are asked for; "" for none."""

    certificate: str
    key: str
    authority: str = ""


class Api(Strict):
    """host, port: where it listens; beyond this machine only with TLS. upload_mb: largest request. requests_per_minute,
    logins_per_minute: per user (or address, before login)."""

    host: str = "127.0.0.1"
    port: Port = 8080
    tls: Tls | None = None
    upload_mb: Annotated[int, Field(ge=1)] = 4096
    requests_per_minute: Annotated[int, Field(ge=1)] = 6000
    logins_per_minute: Annotated[int, Field(ge=1)] = 10


class Dicom(Strict):
    """The DICOM node. ae_title: its own. max_associations: at the same time."""

    host: str = "127.0.0.1"
    port: Port = 11112
    ae_title: AeTitle = "DOSEENG"
    tls: Tls | None = None
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 20
    timeout_s: Seconds = 30.0


class ExecutorConfig(Strict):
    """kind: "in-process" or "ray". address: of a running Ray cluster, "" for one of this machine's own. slots: jobs
    that a driver works on at the same time. lease_s: after so long without a sign of life a driver's jobs go to others.
    """

    kind: Literal["in-process", "ray"] = "in-process"
    address: str = ""
    workers: Annotated[int, Field(ge=0)] = 0
    slots: Annotated[int, Field(ge=1, le=256)] = 1
    lease_s: Seconds = 30.0
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    backend: Literal["auto", "cpu", "cuda"] = "auto"


class Storage(Strict):
    """url: "" for a folder below data_dir, or s3://BUCKET/PREFIX. endpoint: of an S3-compatible server of one's own."""

    url: str = ""
    endpoint: str = ""


class Retention(Strict):
    """How long what ended is kept, in days; 0: for ever. Flags and the audit log are always kept."""

    results_days: Annotated[int, Field(ge=0)] = 0
    objects_days: Annotated[int, Field(ge=0)] = 0


class Oidc(Strict):
    """OpenID Connect: bearer tokens of `issuer` for `audience` are taken; `claim` names the user."""

    issuer: str
    audience: str
    claim: str = "sub"


class Rule(Strict):
    """Which received image series of a patient under treatment start an adapt job.

    description, manufacturer: regular expressions searched without regard to case, "" fits all. calling_ae: of the
    sender, empty fits all. quiet_s: so long nothing more of the series must have come. min_images: fewer start nothing.
    """

    name: str
    modality: str = "CT"
    description: Pattern = ""
    manufacturer: Pattern = ""
    calling_ae: list[AeTitle] = []
    quiet_s: Seconds = 20.0
    min_images: Annotated[int, Field(ge=1)] = 10


class Destination(Strict):
    """Where flags and results go. name: unique within the site. verdicts: which it hears of; empty: all.

    dicom: host, port, ae_title (of the peer), tls; gets what `objects` lists. webhook: url, secret (signs messages).
    email: smtp_host, smtp_port (465: TLS from the first byte), sender, recipients; smtp_user with secret as password.
    fhir: url, bearer. tls: the authority that signed the other side's certificate, and the certificate that it asks for
    ("" for none).
    """

    name: str
    kind: Literal["dicom", "webhook", "email", "fhir"]
    verdicts: list[Literal["GREEN", "AMBER", "RED", "UNEVALUABLE", "FAILED"]] = []
    url: str = ""
    secret: SecretStr = SecretStr("")
    bearer: SecretStr = SecretStr("")
    host: str = ""
    port: Port = 0
    ae_title: str = ""
    tls: Tls | None = None
    objects: list[Literal["RTDOSE", "RTSTRUCT", "REG", "CT", "SR", "PDF"]] = ["RTDOSE", "SR"]
    smtp_host: str = ""
    smtp_port: Port = 25
    smtp_user: str = ""
    smtp_starttls: bool = False
    sender: str = ""
    recipients: list[str] = []

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Destination:
        needed = {
            "dicom": ("host", "port", "ae_title"),
            "webhook": ("url", "secret"),
            "email": ("smtp_host", "sender", "recipients"),
            "fhir": ("url",),
        }[self.kind]
        for name in needed:
            value = getattr(self, name)
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value):
                raise ValueError(f"destination '{self.name}': a {self.kind} destination needs '{name}'")
        return self

    @model_validator(mode="after")
    def _is_encrypted(self) -> Destination:
        address = urlsplit(self.url)
        if self.url and address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
            raise ValueError(f"destination '{self.name}': url must begin with https://, or be http:// of this machine")
        is_secured = self.smtp_starttls or self.smtp_port == 465 or self.smtp_host in LOOPBACK
        if self.smtp_user and not is_secured:
            raise ValueError(
                f"destination '{self.name}': smtp_user would send a password in the clear; set smtp_starttls = true "
                "or smtp_port = 465"
            )
        return self


class Archive(Strict):
    """A PACS to find and fetch from."""

    name: str
    host: str
    port: Port
    ae_title: AeTitle
    tls: Tls | None = None


class Center(Strict):
    """Another doseeng that computes for a site, on pseudonyms. authority: PEM of who signed its certificate, "" for the
    usual ones."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    token: SecretStr
    authority: str = ""


class Site(Strict):
    """One tenant. called_ae: the AE title by which its systems call the node, "" for the node's own. calling_ae: who
    may call, each the site's alone; empty: nobody; "*": anyone on this machine. auto_treat: a plan that arrives is
    under treatment without anyone saying so. treatment_site, goals, settings, gates, machine_folders, hu_table: as
    `doseeng adapt` takes them."""

    name: SiteName
    called_ae: str = ""
    calling_ae: list[AeTitle] = []
    auto_treat: bool = False
    treatment_site: str = "default"
    goals: str = ""
    settings: str = ""
    gates: str = ""
    hu_table: str = ""
    machine_folders: list[str] = []
    rule: list[Rule] = []
    destination: list[Destination] = []
    archive: list[Archive] = []
    center: Center | None = None

    @field_validator("destination", "archive", "rule")
    @classmethod
    def _names_differ(cls, entries: list[Any]) -> list[Any]:
        names = [entry.name for entry in entries]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name '{name}' is used twice; each needs one of its own")
        return entries


class ServiceConfig(Strict):
    """doseeng.toml. data_dir: what the service keeps; database_url: "" for SQLite in it."""

    data_dir: str = "doseeng-data"
    database_url: SecretStr = SecretStr("")
    api: Api = Api()
    dicom: Dicom = Dicom()
    executor: ExecutorConfig = ExecutorConfig()
    storage: Storage = Storage()
    retention: Retention = Retention()
    oidc: Oidc | None = None
    site: list[Site] = [Site(name="local", calling_ae=[ANYONE], auto_treat=True, rule=[Rule(name="image of the day")])]

    @model_validator(mode="after")
    def _sites_are_apart(self) -> ServiceConfig:
        seen: dict[tuple[str, str], str] = {}
        if not self.site:
            raise ValueError("there is no [[site]]; the service needs at least one")
        names = [site.name for site in self.site]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sites are named '{name}'")
        for site in self.site:
            for caller in site.calling_ae:
                key = (site.called_ae or self.dicom.ae_title, caller)
                if key in seen:
                    raise ValueError(
                        f"sites '{seen[key]}' and '{site.name}' both take {caller} calling {key[0]}; an association "
                        "must belong to one site: give each site a called_ae of its own"
                    )
                seen[key] = site.name
        return self

    @model_validator(mode="after")
    def _anyone_is_near(self) -> ServiceConfig:
        if self.dicom.host not in LOOPBACK and any(ANYONE in site.calling_ae for site in self.site):
            raise ValueError(
                f"dicom: host {self.dicom.host} is beyond this machine, but a site takes calls from anyone "
                f'(calling_ae = ["{ANYONE}"]); list the AE titles of its systems'
            )
        return self

    @model_validator(mode="after")
    def _network_is_encrypted(self) -> ServiceConfig:
        if self.api.tls is None and self.api.host not in LOOPBACK:
            raise ValueError(
                f"api: host {self.api.host} is beyond this machine, but there is no [api.tls]; passwords and patients "
                "would cross the network in the clear (`doseeng certificates` makes a pair for development)"
            )
        return self

    @property
    def data(self) -> Path:
        """The folder of the service's own files."""
        return Path(self.data_dir)

    @property
    def database(self) -> str:
        """URL of the database."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.data / 'doseeng.db'}"

    def site_named(self, name: str) -> Site:
        """ConfigError when there is none."""
        found = next((site for site in self.site if site.name == name), None)
        if found is None:
            known = ", ".join(site.name for site in self.site)
            raise ConfigError(f"site '{name}' is not configured; expected one of {known}")
        return found


def read_config(path: Path | None = None, environment: Mapping[str, str] | None = None) -> ServiceConfig:
    """The configuration of a file (None: all defaults), with the environment over it.

    ConfigError names the file or variable, the path of the key and, for a wrong key, the nearest one.
    """
    values: dict[str, Any] = {}
    name = "environment"
    if path is not None:
        name = path.name
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read ({error.strerror or error}); check the path") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{name}: is not valid TOML: {error}") from error
    for key, text in sorted((os.environ if environment is None else environment).items()):
        if key.startswith(PREFIX) and key not in _OTHER_VARIABLES:
            _set(values, key, text)
    return _absolute(checked(values, ServiceConfig, name), Path(path).parent if path else Path())


_OTHER_VARIABLES: Final = frozenset({"DOSEENG_DATA", "DOSEENG_MACHINES", "DOSEENG_TOKEN", "DOSEENG_URL"})
"""Variables of ours that are no configuration of the service."""


def _set(values: dict[str, Any], variable: str, text: str) -> None:
    *tables, key = variable.removeprefix(PREFIX).lower().split("__")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{variable}: '{table}' is no table of the configuration")
    try:
        values[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[key] = text


_FILES: Final = {"data_dir", "goals", "settings", "gates", "certificate", "key", "authority"}


def _absolute(config: ServiceConfig, folder: Path) -> ServiceConfig:
    """The same with every path made absolute."""

    def walk(value: Any, name: str = "") -> Any:
        if isinstance(value, Strict):
            changes = {field: walk(getattr(value, field), field) for field in type(value).model_fields}
            return value.model_copy(update=changes)
        if isinstance(value, list):
            return [walk(item, name) for item in value]
        is_path = name in _FILES or name == "machine_folders" or (name == "hu_table" and str(value).endswith(".toml"))
        if is_path and isinstance(value, str) and value:
            return str((folder / value).absolute())
        return value

    absolute: ServiceConfig = walk(config)
    return absolute
