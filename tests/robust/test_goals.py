"""Goals from plans and TOML."""

from collections.abc import Callable
from pathlib import Path

import pytest

from doseeng.case import Case
from doseeng.errors import ConfigError, PlanError, StructureError
from doseeng.plan import Prescription
from robust.goals import Goal, default_goals, goals_for, read_goal_file

CORD = '[[goal]]\nstructure = "Cord"\nmetric = "D0.03cm3"\nrelation = "<="\nlimit = 45.0\nunit = "Gy"\n'


@pytest.fixture
def goal_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "goals.toml"
        path.write_text(text)
        return path

    return write


def test_default_goals_are_coverage_of_every_prescribed_target(case: Case) -> None:
    assert default_goals(case) == (
        Goal("CTV", "V95%", ">=", 95.0, "%", 60.0),
        Goal("CTV", "D95%", ">=", 95.0, "%", 60.0),
    )


def test_plan_without_prescription_has_no_default_goals(case_with: Callable[..., Case]) -> None:
    assert default_goals(case_with(())) == ()


@pytest.mark.parametrize(
    ("prescriptions", "error", "message"),
    [
        ((Prescription(9, 60),), StructureError, "ROI number 9 is not in"),
        ((Prescription(3, 60),), StructureError, "'Empty' has no contour"),
        ((Prescription(1, 60), Prescription(1, 70)), PlanError, "both 60 and 70 Gy"),
    ],
)
def test_broken_prescriptions(
    case_with: Callable[..., Case], prescriptions: tuple[Prescription, ...], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        default_goals(case_with(prescriptions))


def test_goal_file(case: Case, goal_file: Callable[[str], Path]) -> None:
    file = read_goal_file(goal_file("[uncertainty]\ndose_percent = 2.5\n" + CORD + "in_scenarios = 90\nband = 0.4\n"))
    goals, notices = goals_for(case, file)
    assert file.uncertainty.dose_percent == 2.5
    assert goals[:2] == default_goals(case)
    assert goals[2] == Goal("Cord", "D0.03cm3", "<=", 45.0, "Gy", None, 90.0, 0.4)
    assert notices == ()


def test_coverage_can_be_replaced_or_removed(case: Case, goal_file: Callable[[str], Path]) -> None:
    assert goals_for(case, read_goal_file(goal_file("coverage = []\n" + CORD)))[0][0].structure == "Cord"
    row = '[[coverage]]\nmetric = "D98%"\nrelation = ">="\nlimit = 95\nunit = "%"\nin_scenarios = "nominal"'
    assert goals_for(case, read_goal_file(goal_file(row)))[0] == (Goal("CTV", "D98%", ">=", 95.0, "%", 60.0, 0.0),)


def test_a_goal_takes_the_prescription_of_its_structure(case: Case, goal_file: Callable[[str], Path]) -> None:
    row = '[[goal]]\nstructure = "CTV"\nmetric = "D2%"\nrelation = "<="\nlimit = 107\nunit = "%"\n'
    assert goals_for(case, read_goal_file(goal_file(row)))[0][-1].prescription_gy == 60
    own = read_goal_file(goal_file(row + "prescription_gy = 50.0"))
    assert goals_for(case, own)[0][-1].prescription_gy == 50


def test_percent_of_dose_needs_a_prescription(case: Case, goal_file: Callable[[str], Path]) -> None:
    row = '[[goal]]\nstructure = "Cord"\nmetric = "V50%"\nrelation = "<="\nlimit = 10\nunit = "%"\n'
    with pytest.raises(ConfigError, match=r"goal\[0\] \('Cord' V50% in %\).*add prescription_gy"):
        goals_for(case, read_goal_file(goal_file(row)))


@pytest.mark.parametrize("name", ["cord", "Spinal", "Empty"])
def test_goal_for_a_missing_or_empty_structure(case: Case, goal_file: Callable[[str], Path], name: str) -> None:
    text = CORD.replace('"Cord"', f'"{name}"')
    with pytest.raises(StructureError, match="did you mean 'Cord'" if name == "cord" else name):
        goals_for(case, read_goal_file(goal_file(text)))
    goals, (notice,) = goals_for(case, read_goal_file(goal_file(text + "optional = true")))
    assert goals == default_goals(case)
    assert (notice.code, notice.where) == ("optional-goal-skipped", name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CORD + CORD + CORD.replace("limit", "limt"),
            r"goals.toml: goal\[2\].limt: unknown key; did you mean 'limit'\?",
        ),
        (CORD + CORD.replace("limit = 45.0", ""), r"goal\[1\].limit: is missing"),
        ("[uncertainity]\ndose_percent = 1", r"uncertainity: unknown key; did you mean 'uncertainty'\?"),
        ("[uncertainty]\ndose = 1", r"uncertainty.dose: unknown key; expected one of dose_percent"),
        ("[uncertainty]\ndose_percent = -1", r"uncertainty.dose_percent: .*greater than or equal to 0, found -1"),
        (CORD.replace("<=", "<"), r"goal\[0\].relation: .*found '<'"),
        (CORD.replace("45.0", '"45"'), r"goal\[0\].limit: .*number, found '45'"),
        (CORD.replace("45.0", "nan"), r"goal\[0\].limit: .*finite"),
        (CORD.replace('"Gy"', '"cGy"'), r"goal\[0\].unit"),
        (CORD.replace('"Gy"', '"cm3"'), r"goal\[0\]: D0.03cm3 cannot be given in cm3; expected % or Gy"),
        (CORD.replace("D0.03cm3", "Q95%"), r"goal\[0\].metric: .*Q95%"),
        (CORD + 'in_scenarios = "most"', r"goal\[0\].in_scenarios: 'most' is not a scope"),
        (CORD + "in_scenarios = 190", r"goal\[0\].in_scenarios: .*less than or equal to 100"),
        (CORD + "wibble = 1", r"goal\[0\].wibble: unknown key; expected one of metric, relation"),
        ("[[goal]\n", "goals.toml: is not valid TOML"),
    ],
)
def test_wrong_goal_files_are_refused_with_the_path(goal_file: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_goal_file(goal_file(text))


def test_missing_goal_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read"):
        read_goal_file(tmp_path / "nowhere.toml")
