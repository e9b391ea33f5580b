"""Limits of the gates: shipped ones, a clinic's own, and what is wrong with a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from doseeng.errors import ConfigError
from registration.gatesettings import read_limits


def test_a_clinic_replaces_single_limits(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[limits]\nair_level_hu = 60\n")
    assert read_limits(file) == replace(read_limits(), air_level_hu=60.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nair_level = 60\n", r"own.toml: limits.air_level: unknown key; did you mean 'air_level_hu'"),
        ("[limits]\nzzz = 60\n", "unknown key; expected one of similarity_target, "),
        ("[limits]\nfolding = true\n", "limits.folding: expected a number, found True"),
        ("[limits]\nfolding = '0'\n", "expected a number, found '0'"),
        ("[limits]\nfolding = nan\n", "expected a finite number of at least 0, found nan"),
        ("[limits]\ntarget_seen_percent = 101\n", "from 0 to 100, found 101"),
        ("[limits]\ncontour_dice = 80\n", "from 0 to 1, found 80"),
        ("[limit]\nfolding = 0.0\n", r"own.toml: limit: unknown key; expected the table \[limits\]"),
        ("", r"the table \[limits\] is missing"),
        ("limits = 3", r"the table \[limits\] is missing"),
        ("[limits", "is not valid TOML"),
    ],
)
def test_wrong_limits_are_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_limits(file)


def test_unreadable_limits_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read"):
        read_limits(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n[limits]\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_limits(tmp_path / "latin.toml")
