"""Parts of machine files: TOML read strictly, with errors that give the key path, and written as a person would.

Header numbers keep every digit, tables six significant digits; the same values always give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from doseeng.errors import MachineError
from doseeng.machines.model import Array


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; MachineError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MachineError(f"cannot read the machine file: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MachineError(f"not a machine file: {error}") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file in front of the message of a MachineError."""
    try:
        yield
    except MachineError as error:
        raise MachineError(f"{path}: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def text_hash(text: str) -> str:
    """SHA-256 (hex) of a file's content."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def check_keys(table: Mapping[str, Any], where: str, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """MachineError naming the path of a key that is missing or unknown; where: path of the table, "" for the file."""
    prefix = f"{where}." if where else ""
    for key in required:
        if key not in table:
            raise MachineError(f"key '{prefix}{key}' is missing")
    for key in table:
        if key not in required and key not in optional:
            raise MachineError(f"unknown key '{prefix}{key}'; known here: {', '.join((*required, *optional))}")


def table_of(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table [key]."""
    value = data[key]
    if not isinstance(value, dict):
        raise MachineError(f"'{key}' is {type(value).__name__}, expected a table [{key}]")
    return value


def text_of(value: object, key: str) -> str:
    """Text, or a MachineError naming `key`."""
    if not isinstance(value, str):
        raise MachineError(f"'{key}' is {value!r}, expected text")
    return value


def list_of(value: object, key: str) -> list[Any]:
    """A list, or a MachineError naming `key`."""
    if not isinstance(value, list):
        raise MachineError(f"'{key}' is {type(value).__name__}, expected a list")
    return value


def number_of(value: object, key: str) -> float:
    """A number, or a MachineError naming `key`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MachineError(f"'{key}' is {value!r}, expected a number")
    return float(value)


def vector_of(value: object, key: str, size: int | None) -> Array:
    """A list of numbers (size,), of any size but zero when None; MachineError naming the item."""
    items = list_of(value, key)
    if not items or (size is not None and len(items) != size):
        raise MachineError(f"'{key}' has {len(items)} values, expected {'at least 1' if size is None else size}")
    for i, item in enumerate(items):
        # bool is an int to Python but not to a reader of this file.
        if type(item) is not float and type(item) is not int:
            raise MachineError(f"'{key}[{i}]' is {item!r}, expected a number")
    return np.array(items, dtype=np.float64)


def ascending_of(value: object, key: str) -> Array:
    """Non-negative ascending numbers, as depths and angles are."""
    vector = vector_of(value, key, None)
    if np.any(np.diff(vector) <= 0) or vector[0] < 0:
        raise MachineError(f"'{key}' must be non-negative and ascend")
    return vector


def matrix_of(value: object, key: str, rows: int | None, columns: int) -> Array:
    """A list of rows (rows, columns), any number of rows but zero when None."""
    items = list_of(value, key)
    if not items or (rows is not None and len(items) != rows):
        raise MachineError(f"'{key}' has {len(items)} rows, expected {'at least 1' if rows is None else rows}")
    return np.stack([vector_of(item, f"{key}[{i}]", columns) for i, item in enumerate(items)])


def quoted(value: str) -> str:
    """TOML text."""
    # JSON's escapes are a subset of TOML's basic strings, but JSON leaves DEL alone and TOML forbids it.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def exact(value: float) -> str:
    """A number with every digit, whole ones without a point."""
    text = repr(float(value))
    return text.removesuffix(".0")


def six_digits(values: Iterable[float]) -> str:
    """Numbers with six significant digits, separated by commas."""
    # Adding zero turns -0.0 into 0.0: the same machine, the same bytes.
    return ", ".join(f"{value + 0.0:.6g}" for value in values)


def vector_line(key: str, values: Array) -> str:
    """`key = [...]` with six digits."""
    return f"{key} = [{six_digits(values.tolist())}]"


def row_lines(key: str, values: Array, exact_first: Array | None = None) -> list[str]:
    """`key = [` with one line per row of `values` (n, m), each begun by an exact number where given, and `]`."""
    first = [""] * len(values) if exact_first is None else [f"{exact(v)}, " for v in exact_first]
    return [
        f"{key} = [",
        *(f"  [{head}{six_digits(row)}]," for head, row in zip(first, values.tolist(), strict=True)),
        "]",
    ]
