"""Manifests: what people write, and what they are told when it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.batch.identity import Identity
from cluster.batch.manifest import Manifest, read_manifest
from cluster.batch.tree import read_tree
from cluster.jobs.model import JobKind
from cluster.workflows.options import AdaptOptions, EvaluateOptions
from doseeng.errors import ConfigError

GOALS = '[[goal]]\nstructure = "Cord"\nmetric = "D0.03cm3"\nrelation = "<="\nlimit = 45.0\nunit = "Gy"\n'
LIST = '[[scenario]]\nname = "left"\nshift_mm = [3.0, 0.0, 0.0]\n'


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Manifest]:
    """`written("batch.csv", text, kind)`: the manifest of a file beside `goals.toml` and `list.toml`."""
    (tmp_path / "goals.toml").write_text(GOALS)
    (tmp_path / "list.toml").write_text(LIST)

    def read(name: str, text: str, kind: JobKind = JobKind.EVALUATE, **usual: object) -> Manifest:
        (tmp_path / name).write_bytes(text.encode())
        return read_manifest(tmp_path / name, kind, usual)

    return read


def test_csv(written: Callable[..., Manifest], tmp_path: Path) -> None:
    text = (
        "\ufeffName,Case,Plan,Treatment site,Goals,scenarios,setup-mm,seed,accept patient mismatch\r\n"
        'one,cases/1,1.2.3,lung,goals.toml,list.toml,2.5,7,true\r\n\r\n,"cases/two, left",,,,28,,,\r\n'
    )
    found = written("spring.csv", text, treatment_site="prostate", setup_mm=4.0)
    assert (found.name, found.kind) == ("spring", JobKind.EVALUATE)
    one, two = found.items
    assert (one.name, one.case, one.plan_uid) == ("one", tmp_path / "cases" / "1", "1.2.3")
    assert one.options == EvaluateOptions(
        treatment_site="lung", goals=GOALS, scenarios=LIST, setup_mm=2.5, seed=7, accept_patient_mismatch=True
    )
    assert (two.name, two.case, two.plan_uid) == ("item-002", tmp_path / "cases" / "two, left", "")
    assert two.options == EvaluateOptions(treatment_site="prostate", scenarios="28", setup_mm=4.0)
    assert two.where == "spring.csv: line 4"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_of_other_spreadsheets(written: Callable[..., Manifest], delimiter: str) -> None:
    text = "name,case,site\none,a,lung\n".replace(",", delimiter)
    assert written("x.csv", text).items[0].treatment_site == "lung"


def test_toml(written: Callable[..., Manifest], tmp_path: Path) -> None:
    text = '[[item]]\nname = "d1"\ncase = "c"\nimage = "/days/1.zip"\nsite = "lung"\nrobust = true\nfraction = 3\n'
    item = written("days.toml", text, JobKind.ADAPT).items[0]
    assert item.image == Path("/days/1.zip")
    assert item.options == AdaptOptions(treatment_site="lung", robust=True, fraction=3)


@pytest.mark.parametrize(
    ("name", "text", "kind", "said"),
    [
        ("a.csv", "name,case,gaols\nx,y,z\n", "evaluate", r"line 2: unknown column 'gaols'; did you mean 'goals'"),
        ("a.csv", "name,case,qqqqq\nx,y,z\n", "evaluate", "expected one of name, case, plan"),
        ("a.csv", "name,case,robust\nx,y,true\n", "evaluate", "'robust' is for --kind adapt"),
        ("a.csv", "name,plan\nx,1.2\n", "evaluate", "line 2: has no case"),
        ("a.csv", "name,case\nx,y\n", "adapt", "line 2: has no image"),
        ("a.csv", "name,case\nx,y\nx,z\n", "evaluate", "line 3: the name 'x' is used by a.csv: line 2"),
        ("a.csv", "name,case,seed\nx,y,often\n", "evaluate", "seed: .*found 'often'"),
        ("a.csv", "name,case,setup_mm\nx,y,-1\n", "evaluate", "setup_mm: .*greater than or equal to 0"),
        ("a.csv", "name,case\nx,y,z\n", "evaluate", "3 cells under 2 columns"),
        ("a.csv", "name,case,case\nx,y,z\n", "evaluate", "two columns 'case'"),
        ("a.csv", "name,case\n", "evaluate", "no items"),
        ("a.csv", "", "evaluate", "no items"),
        ("a.csv", 'name,case\nx,"y\n', "evaluate", "is not CSV"),
        ("a.csv", "name,case,goals\nx,y,no.toml\n", "evaluate", "goals: cannot be read"),
        ("a.csv", "name,case,goals\nx,y,list.toml\n", "evaluate", "line 2: list.toml: scenario: unknown key"),
        ("a.csv", "case,site,treatment_site\nx,lung,pelvis\n", "evaluate", "'treatment_site' is given twice"),
        ("a.toml", '[[item]]\ncase = "c"\nseed = "7"\n', "evaluate", "seed"),
        ("a.toml", "[[item]\n", "evaluate", "is not valid TOML"),
        ("a.toml", "[[items]]\n", "evaluate", "unknown key 'items'"),
        ("a.toml", 'item = "x"\n', "evaluate", "must be a list of tables"),
        ("a.toml", "[[item]]\ncase = 3\n", "evaluate", "case must be text"),
        ("a.toml", '[[item]]\ncase = "c"\nseed = 1.5\n', "evaluate", "item 1: .*seed"),
        ("a.toml", '[[item]]\ncase = "c"\nmachines = 1\n', "evaluate", "unknown column 'machines'"),
    ],
)
def test_what_is_wrong_is_named(written: Callable[..., Manifest], name: str, text: str, kind: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        written(name, text, JobKind(kind))


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"name,case\nx,\xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_manifest(tmp_path / "a.csv", JobKind.DOSE, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(tmp_path / "b.csv", JobKind.DOSE, {})


def test_a_tree_of_folders(tmp_path: Path, make_case: Callable[..., Path]) -> None:
    root = tmp_path / "tree"
    make_case(root / "b", "P1")
    apart = make_case(root / "a" / "images", "P2")
    (root / "a" / "plans").mkdir()
    (apart / "rp.dcm").rename(root / "a" / "plans" / "rp.dcm")
    (root / "notes.txt").write_text("nothing")
    (root / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 9)
    found = read_tree(root, JobKind.EVALUATE, {"treatment_site": "lung"})
    assert [item.name for item in found.items] == ["a/plans", "b"]
    assert found.items[0].within == root / "a"
    assert {item.treatment_site for item in found.items} == {"lung"}
    assert found.name == "tree"


def test_a_tree_with_two_plans_in_a_folder(tmp_path: Path, make_case: Callable[..., Path]) -> None:
    case = make_case(tmp_path / "tree" / "c", "boost")
    twin = make_case(tmp_path / "twin", "whole")
    (twin / "rp.dcm").rename(case / "rp2.dcm")
    found = read_tree(tmp_path / "tree", JobKind.DOSE, {})
    assert [item.name for item in found.items] == ["c: boost", "c: whole"]


def test_trees_that_are_none(tmp_path: Path, make_case: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="no DICOM plan"):
        read_tree(tmp_path, JobKind.DOSE, {})
    make_case(tmp_path / "c")
    with pytest.raises(ConfigError, match="which images"):
        read_tree(tmp_path, JobKind.ADAPT, {})


@pytest.mark.parametrize(
    "shown",
    ["QZ-4711", "north/qz-4711_ct", "Zebulon", "QUATERMAIN, Z.", "quatermain_2026", "xQuatermainx", "case 19010203 a"],
)
def test_identity_is_found(shown: str) -> None:
    identity = Identity(frozenset({"quatermain", "zebulon"}), frozenset({"qz-4711", "19010203"}))
    assert identity.is_in(shown)
    for secret in ("quatermain", "zebulon", "qz-4711", "19010203"):
        assert secret not in identity.taken_out(shown).lower()


@pytest.mark.parametrize("shown", ["lung-1", "item 107 of 1070", "anna lena", "CT.0003.dcm"])
def test_what_is_no_identity_stays(shown: str) -> None:
    identity = Identity(frozenset({"ann", "lee"}), frozenset({"070"}))
    assert identity.taken_out(shown) == shown
