"""The configuration of the service: TOML, the environment over it, errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.node.callers import Refusal, site_of
from cluster.service.config import ServiceConfig, read_config
from doseeng.errors import ConfigError

TWO_SITES = """
[[site]]
name = "north"
calling_ae = ["LINAC1", "CT1"]
[[site]]
name = "south"
called_ae = "SOUTH"
calling_ae = ["LINAC1"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "doseeng.toml"
    path.write_text(text)
    return path


def test_nothing_needs_to_be_written() -> None:
    config = read_config(None, {})
    assert config.database == f"sqlite:///{config.data / 'doseeng.db'}"
    assert config.data.is_absolute()
    assert site_of(config, "DOSEENG", "ANYBODY") is config.site[0]
    assert site_of(config, "OTHER", "ANYBODY") is Refusal.CALLED_UNKNOWN


def test_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, 'data_dir = "kept"\n[[site]]\nname = "a"\ngoals = "goals.toml"\n'), {})
    assert config.data == tmp_path / "kept"
    assert config.site[0].goals == str(tmp_path / "goals.toml")
    assert config.site[0].settings == ""


def test_environment_goes_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[api]\nport = 8000\n")
    environment = {
        "DOSEENG_API__PORT": "9000",
        "DOSEENG_DATABASE_URL": "postgresql://user:secret@db/doseeng",
        "DOSEENG_MACHINES": "/elsewhere",
        "OTHER": "1",
    }
    config = read_config(path, environment)
    assert config.api.port == 9000
    assert config.database == "postgresql://user:secret@db/doseeng"
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[api]\nprt = 1\n", "api.prt: unknown key; did you mean 'port'?"),
        ("[api]\nport = 'x'\n", "api.port"),
        ('[api]\nhost = "0.0.0.0"\n', "beyond this machine"),
        ('[dicom]\nhost = "0.0.0.0"\n', "takes calls from anyone"),
        ('[[site]]\nname = "North"\n', "is no site name"),
        ('[[site]]\nname = "a"\n[[site]]\nname = "a"\n', "two sites are named 'a'"),
        ("site = []\n", "needs at least one"),
        ('[[site]]\nname = "a"\n[[site.rule]]\nname = "r"\ndescription = "("\n', "is no regular expression"),
        ('[[site]]\nname = "a"\n[[site.destination]]\nname = "d"\nkind = "webhook"\nurl = "x"\n', "needs 'secret'"),
        ("api = 1\n", "api"),
        ("= 3", "is not valid TOML"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"doseeng\.toml") as caught:
        read_config(written(tmp_path, text), {})
    assert said in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        read_config(tmp_path / "none.toml", {})


def test_variable_for_no_table() -> None:
    with pytest.raises(ConfigError, match="'data_dir' is no table"):
        read_config(None, {"DOSEENG_DATA_DIR": "x", "DOSEENG_DATA_DIR__X": "1"})


def test_one_association_belongs_to_one_site(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both take LINAC1 calling DOSEENG"):
        read_config(written(tmp_path, TWO_SITES.replace('called_ae = "SOUTH"\n', "")), {})


def test_strangers_are_named(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, TWO_SITES), {})
    assert isinstance(config, ServiceConfig)
    with pytest.raises(ConfigError, match="site 'east' is not configured; expected one of north, south"):
        config.site_named("east")
