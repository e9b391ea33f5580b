"""What the service says while it works: one line per event, as JSON for machines or plain for people, without identity.

    _log = logging.getLogger(__name__)
    _log.info("series complete", extra={"site": "north", "job_id": job.id, "patient_key": key})

becomes {"time": "2026-03-01T08:15:02.114Z", "level": "info", "part": "node", "event": "series complete",
"logger": "cluster.node.watcher", "job_id": ...}.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

HIDDEN: Final = "[hidden]"
"""What stands where a value must not."""

_IDENTITY: Final = re.compile(
    # DICOM PS3.6, group 0010 (patient) and what else PS3.15 table E.1-1 removes of persons, visits and places.
    r"^(patient(?!s?_?(key|keys|count|position)$)"
    r"|.*(patients?name|patientid|birthdate|birthtime|accession|physician|operators?name|institution|issuerof"
    r"|insurance|address|telephone|mothers|militaryrank|ethnic|admission|otherpatient|responsibleperson|medicalrecord"
    r"|mrn$|givenname|familyname|surname|socialsecurity))",
)
_SECRET: Final = re.compile(
    r"password|passwd|passphrase|secret|token|authorization|cookie|credential|api_?key|bearer|private_?key|signature"
)
_INNOCENT: Final = frozenset({"token_id", "tokens", "patients"})
"""Names that look like a secret's or a person's, and are an id or a count."""
_IN_TEXT: Final = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            r"(?i)\b(password|passwd|secret|token|api[_-]?key|authorization)(\s*[=:]\s*)(?!bearer|basic)[^\s,;&'\"]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@:]*:[^/\s@]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), HIDDEN),
    # "(0010,0010) Patient's Name PN: 'DOE^JOHN'" as pydicom and pynetdicom print elements.
    (re.compile(r"(\((?:0010|0008),?\s?[0-9a-fA-F]{4}\)[^\n]*?:\s*)[^\n]+"), rf"\1{HIDDEN}"),
)
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_QUIET: Final = ("pynetdicom", "pydicom", "sqlalchemy.engine", "httpx", "httpcore", "botocore", "urllib3", "alembic")
"""Libraries whose chatter below a warning is theirs, and could quote what they carry."""
_STYLES: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_PLAIN: Final = "\x1b[0m"


class NoIdentity(logging.Filter):
    """Takes identities and secrets out of fields and texts before a line is made."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True: the line stays, what must not be read goes."""
        for name in set(vars(record)) - _STANDARD:
            setattr(record, name, hidden(name, getattr(record, name)))
        record.msg, record.args = scrubbed(record.getMessage()), None
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, part, event, then the fields that came with the event."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "part": self._part,
            "event": record.getMessage(),
            "logger": record.name,
            **fields_of(record),
        }
        if record.exc_info:
            line["trace"] = scrubbed(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class HumanFormatter(logging.Formatter):
    """What a person reads on a terminal: local time, part, event, fields as name=value."""

    def __init__(self, part: str, colour: bool) -> None:
        super().__init__()
        self._part, self._colour = part, colour

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the trace of an error."""
        level = record.levelname.lower()
        start, end = (_STYLES.get(level, ""), _PLAIN) if self._colour and level in _STYLES else ("", "")
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        word = "" if level == "info" else f"{level} "
        line = f"{time} {self._part:<9} {start}{word}{record.getMessage()}{end}{fields}"
        if record.exc_info:
            line += "\n" + scrubbed(self.formatException(record.exc_info))
        return line


def set_up_logging(
    part: str, *, level: int = logging.INFO, as_json: bool | None = None, stream: TextIO | None = None
) -> None:
    """Send everything that this process logs to `stream` (by default stderr), one line per event.

    part: what the process is ("api", "node", "driver", "messenger"). as_json: by default when the stream is no
    terminal. May be called again: the last call counts.
    """
    stream = stream or sys.stderr
    is_terminal = stream.isatty()
    as_json = not is_terminal if as_json is None else as_json
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(part) if as_json else HumanFormatter(part, colour=is_terminal))
    handler.addFilter(NoIdentity())
    root = logging.getLogger()
    for old in [h for h in root.handlers if getattr(h, "is_doseeng", False)]:
        root.removeHandler(old)
    handler.is_doseeng = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    # pydicom's warnings repeat values that it finds invalid, such as dates of birth.
    warnings.filterwarnings("ignore", module=r"pydicom")
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        # uvicorn's own handlers would say everything twice, and unfiltered.
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What came with an event beside its text, in order of names; empty values are left out."""
    names = sorted(set(vars(record)) - _STANDARD)
    return {name: value for name in names if (value := getattr(record, name)) not in (None, "", (), [])}


def hidden(name: str, value: Any) -> Any:
    """`value` as it may be read: `HIDDEN` when `name` says that it is an identity or a secret; inside mappings and
    lists likewise."""
    key = name.lower().replace("-", "_")
    joined = key.replace("_", "")
    if key not in _INNOCENT and (_SECRET.search(key) or _IDENTITY.search(key) or _IDENTITY.search(joined)):
        return HIDDEN
    if isinstance(value, str):
        return scrubbed(value)
    if isinstance(value, Mapping):
        return {str(inner): hidden(str(inner), item) for inner, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [hidden("", item) for item in value]
    return value


def scrubbed(text: str) -> str:
    """`text` without passwords in URLs, bearer tokens, and elements of patients as DICOM libraries print them."""
    for pattern, instead in _IN_TEXT:
        text = pattern.sub(instead, text)
    return text


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
