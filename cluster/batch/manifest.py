"""What a batch is to do: items from a CSV or TOML file that a person wrote, or from a tree of folders.

    name,case,site,goals
    lung-1,cases/lung-1,lung,lung.toml
    lung-2,cases/lung-2.zip,lung,lung.toml

In TOML the same keys stand in `[[item]]` tables. Paths are relative to the manifest. `goals`, `settings`, `gates`,
`scenarios` and `hu_table` name files, which are read here: an item is complete. A manifest that is wrong somewhere is
refused as a whole, before anything is computed; a case that is wrong fails alone, later.
"""

from __future__ import annotations

import csv
import difflib
import io
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from cluster.jobs.model import JobKind
from cluster.workflows.options import OPTIONS_OF, Options, options_from
from doseeng.errors import ConfigError
from robust.configuration import GoalFile, parse_toml

OWN_KEYS: Final = ("name", "case", "plan", "image")
ALIASES: Final = {"site": "treatment_site"}
"""The command line's word for it."""
TEXT_OF: Final = ("goals", "settings", "gates")
"""Options that are the text of the file that the manifest names."""
TEXT_OR_NAME: Final = ("scenarios", "hu_table")
"""Options that are a name, or the text of a file when that ends in .toml."""
NOT_WRITTEN: Final = frozenset({"machines"})
"""Options that follow from the machine folders."""
SUFFIXES: Final = (".csv", ".toml")
_DELIMITERS: Final = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class Item:
    """One case to compute. where: its place in the manifest, for messages. plan_uid: "" when the case has one plan.

    within: how far up from `case` to look for what the plan refers to, when it does not lie beside it; None: not at
    all. name: may be changed when the case is read, if it tells who the patient is.
    """

    name: str
    where: str
    case: Path
    options: Options
    plan_uid: str = ""
    image: Path | None = None
    within: Path | None = None

    @property
    def treatment_site(self) -> str:
        """What the options say, "" for a dose, which has none."""
        return str(getattr(self.options, "treatment_site", ""))


@dataclass(frozen=True, slots=True)
class Manifest:
    """name: of the batch. items: in the order in which they were written."""

    name: str
    kind: JobKind
    items: tuple[Item, ...]


def read_manifest(path: Path, kind: JobKind, usual: Mapping[str, Any]) -> Manifest:
    """The items of a .csv or .toml file. usual: options for items that do not say otherwise, as the command line gave
    them (paths relative to the working folder).

    ConfigError names the file, line and column of what is wrong and, for an unknown column, the nearest one.
    """
    is_csv = path.suffix.lower() == ".csv"
    rows = [(where, _by_key(row, where, kind)) for where, row in (_csv_rows(path) if is_csv else _toml_rows(path))]
    if is_csv:
        rows = [(where, {name: _typed(name, cell, kind, where) for name, cell in row.items()}) for where, row in rows]
    if not rows:
        raise ConfigError(f"{path.name}: there are no items; write one line (CSV) or one [[item]] (TOML) per case")
    defaults = completed(usual, Path(), "command line")
    items = tuple(
        _item(where, row, kind, defaults, path.parent, number) for number, (where, row) in enumerate(rows, start=1)
    )
    _require_different(items)
    return Manifest(path.stem, kind, items)


def completed(values: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Options with the text of the files that they name. ConfigError for a file that cannot be read."""
    found = dict(values)
    for name, value in values.items():
        is_file = name in TEXT_OF or (name in TEXT_OR_NAME and str(value).endswith(".toml"))
        if value and is_file:
            found[name] = _file_text(folder / str(value), f"{where}: {name}")
    if values.get("goals"):
        # Here, where the name of the file is known.
        parse_toml(found["goals"], GoalFile, f"{where}: {Path(str(values['goals'])).name}")
    return found


def fitting(values: Mapping[str, Any], kind: JobKind) -> dict[str, Any]:
    """Those of the command line's options that a kind has."""
    return {name: value for name, value in values.items() if name in OPTIONS_OF[kind].model_fields}


def known_keys(kind: JobKind) -> tuple[str, ...]:
    """What a manifest of this kind may say of an item."""
    options = [name for name in OPTIONS_OF[kind].model_fields if name not in NOT_WRITTEN]
    own = OWN_KEYS if kind is JobKind.ADAPT else OWN_KEYS[:-1]
    return (*own, *ALIASES, *options)


def _item(
    where: str, row: Mapping[str, Any], kind: JobKind, defaults: Mapping[str, Any], folder: Path, number: int
) -> Item:
    for name in OWN_KEYS:
        if not isinstance(row.get(name, ""), str):
            raise ConfigError(f"{where}: {name} must be text, found {row[name]!r}")
    needed = ("case", "image") if kind is JobKind.ADAPT else ("case",)
    for name in needed:
        if name not in row:
            raise ConfigError(f"{where}: has no {name}; every item of '{kind.value}' needs one")
    values = {name: value for name, value in row.items() if name not in OWN_KEYS}
    options = {**fitting(defaults, kind), **completed(values, folder, where)}
    try:
        checked = options_from(kind, options)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return Item(
        name=row.get("name", f"item-{number:03d}"),
        where=where,
        case=folder / row["case"],
        options=checked,
        plan_uid=row.get("plan", ""),
        image=folder / row["image"] if "image" in row else None,
    )


def _by_key(row: Mapping[str, Any], where: str, kind: JobKind) -> dict[str, Any]:
    """What a row says, by the names of options; empty cells say nothing."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        key = _key(name, where, kind)
        if value in (None, ""):
            continue
        if key in found:
            raise ConfigError(f"{where}: '{key}' is given twice, as '{name}' too; take one out")
        found[key] = value
    return found


def _key(name: str, where: str, kind: JobKind) -> str:
    key = name.strip().lower().replace(" ", "_").replace("-", "_")
    known = known_keys(kind)
    if key in known:
        return ALIASES.get(key, key)
    other = next((k for k in JobKind if key in known_keys(k)), None)
    if other is not None:
        raise ConfigError(f"{where}: '{name}' is for --kind {other.value}, this batch is '{kind.value}'; take it out")
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
    raise ConfigError(f"{where}: unknown column '{name}'; {hint}")


def _typed(name: str, cell: str, kind: JobKind, where: str) -> Any:
    """A cell of a CSV file as the type of its option."""
    if name in OWN_KEYS:
        return cell
    declared = OPTIONS_OF[kind].model_fields[name]
    try:
        return TypeAdapter(_declared(declared)).validate_python(cell, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{where}: {name}: {error.errors()[0]['msg']}, found '{cell}'") from error


def _declared(field: FieldInfo) -> Any:
    return Annotated[field.annotation, Field(), *field.metadata]


def _csv_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    text = _file_text(path, path.name)
    heading = text.splitlines()[0] if text else ""
    delimiter = max(_DELIMITERS, key=heading.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        for column in columns:
            if columns.count(column) > 1:
                raise ConfigError(f"{path.name}: line 1: there are two columns '{column}'; take one out")
        rows = []
        for cells in reader:
            where = f"{path.name}: line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                raise ConfigError(
                    f"{where}: has {len(cells)} cells under {len(columns)} columns; quote those with '{delimiter}'"
                )
            rows.append((where, dict(zip(columns, (cell.strip() for cell in cells), strict=False))))
    except csv.Error as error:
        raise ConfigError(f"{path.name}: line {reader.line_num}: is not CSV ({error}); check its quotes") from error
    return rows


def _toml_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        values = tomllib.loads(_file_text(path, path.name))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: is not valid TOML: {error}") from error
    unknown = next((key for key in values if key != "item"), None)
    if unknown is not None:
        raise ConfigError(f"{path.name}: unknown key '{unknown}'; a manifest holds [[item]] tables and nothing else")
    items = values.get("item", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ConfigError(f"{path.name}: item must be a list of tables; write each as [[item]]")
    return [(f"{path.name}: item {number}", item) for number, item in enumerate(items, start=1)]


def _file_text(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror or error}); check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is not UTF-8 text; save it as UTF-8") from error


def _require_different(items: Sequence[Item]) -> None:
    seen: dict[str, str] = {}
    for item in items:
        if item.name in seen:
            raise ConfigError(f"{item.where}: the name '{item.name}' is used by {seen[item.name]} too; choose another")
        seen[item.name] = item.where
