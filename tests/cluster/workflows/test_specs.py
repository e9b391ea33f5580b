"""A spec is complete: what changes a result changes it, and nothing else does."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from cluster.jobs.model import JobKind, JobSpec
from cluster.service.config import Site
from cluster.workflows.inputs import engine_inputs, require_sound
from cluster.workflows.options import AdaptOptions, DoseOptions, EvaluateOptions, options_from
from cluster.workflows.specs import adapt_spec, dose_spec, evaluate_spec, lane_of
from doseeng.errors import ConfigError, DicomError, JobError
from doseeng.machines.library import SHIPPED, find_machine

PLAN = "1.2.826.0.1.3680043.10.4711.1"
GOALS = 'coverage = []\n[[goal]]\nstructure = "CTV"\nmetric = "Dmean"\nrelation = ">="\nlimit = 1.0\nunit = "Gy"\n'


def adapt_key(hospital: Any, site: Site, **options: Any) -> str:
    spec = adapt_spec(hospital.library, site, PLAN, hospital.days[0], AdaptOptions(**options))
    assert JobSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    return spec.content_key


def test_equal_questions_are_one_job_and_every_input_makes_another(hospital: Any, tmp_path: Path) -> None:
    goals, settings, gates, table = (tmp_path / f"{name}.toml" for name in ("goals", "settings", "gates", "table"))
    machines = tmp_path / "machines"
    machines.mkdir()
    goals.write_text(GOALS)
    settings.write_text("[site.default]\ndose_percent = 3.0\n")
    gates.write_text("[limits]\nfolding = 0.01\n")
    table.write_text((SHIPPED.parent / "materials" / "schneider-2000.toml").read_text())
    (machines / "m.toml").write_text((SHIPPED / "generic-6mv.toml").read_text())
    sites = [
        Site(name="north"),
        Site(name="north", treatment_site="lung"),
        Site(name="north", goals=str(goals)),
        Site(name="north", settings=str(settings)),
        Site(name="north", gates=str(gates)),
        Site(name="north", hu_table=str(table)),
        Site(name="north", machine_folders=[str(machines)]),
    ]
    keys = [adapt_key(hospital, site) for site in sites]
    assert len(set(keys)) == len(keys)
    assert keys == [adapt_key(hospital, site) for site in sites]
    asked = [{}, {"robust": True}, {"spacing_mm": 4.0}, {"method": "as-is"}, {"fraction": 3}, {"backend": "cpu"}]
    assert len({adapt_key(hospital, sites[0], **options) for options in asked}) == len(asked)
    before = keys[2], keys[6]
    goals.write_text(GOALS.replace("1.0", "1.5"))
    (machines / "m.toml").write_text((SHIPPED / "generic-10mv.toml").read_text())
    after = adapt_key(hospital, sites[2]), adapt_key(hospital, sites[6])
    assert not set(before) & set(after)


def test_what_a_person_says_goes_before_the_site(hospital: Any, tmp_path: Path) -> None:
    goals = tmp_path / "goals.toml"
    goals.write_text(GOALS)
    site = Site(name="north", treatment_site="lung", goals=str(goals), hu_table="schneider-2000")
    usual = options_from(JobKind.EVALUATE, evaluate_spec(hospital.library, site, PLAN, EvaluateOptions()).options)
    assert isinstance(usual, EvaluateOptions)
    assert (usual.treatment_site, usual.goals) == ("lung", GOALS)
    said = EvaluateOptions(treatment_site="pelvis", goals="")
    own = options_from(JobKind.EVALUATE, evaluate_spec(hospital.library, site, PLAN, said).options)
    assert isinstance(own, EvaluateOptions)
    assert (own.treatment_site, own.goals) == ("pelvis", "")


def test_a_spec_names_lane_and_order_and_no_patient(hospital: Any) -> None:
    specs = [adapt_spec(hospital.library, hospital.site, PLAN, uid, AdaptOptions()) for uid in hospital.days]
    assert {spec.lane for spec in specs} == {lane_of(specs[0].patient_key, PLAN)}
    assert sorted(specs, key=lambda spec: spec.lane_order) == specs
    assert all(len(spec.lane) <= 128 and len(spec.lane_order) <= 128 for spec in specs)
    everything = json.dumps([spec.to_json() for spec in specs])
    assert not [secret for secret in ("Quatermain", "Zebulon", "QZ-4711") if secret in everything]
    assert dose_spec(hospital.library, hospital.site, PLAN, DoseOptions()).lane == ""


def test_machines_travel_with_the_job(hospital: Any, tmp_path: Path) -> None:
    folder = tmp_path / "machines"
    folder.mkdir()
    text = (SHIPPED / "generic-pbs.toml").read_text().replace('"generic-pbs"', '"own"', 1)
    (folder / "own.toml").write_text(text)
    site = Site(name="north", machine_folders=[str(folder)])
    spec = dose_spec(hospital.library, site, PLAN, DoseOptions())
    (folder / "own.toml").unlink()
    options = options_from(JobKind.DOSE, spec.options)
    inputs = engine_inputs(options, hospital.blobs, tmp_path / "work")
    assert find_machine("own", inputs.machine_folders).name == "own"
    with pytest.raises(ConfigError, match="does not exist; check machine_folders"):
        dose_spec(hospital.library, Site(name="north", machine_folders=[str(tmp_path / "gone")]), PLAN, DoseOptions())
    lost = DoseOptions(machines={"0" * 16 + ".toml": "0" * 64})
    with pytest.raises(JobError, match="0000"):
        engine_inputs(lost, hospital.blobs, tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"treatment_site": "hed_neck"}, "did you mean 'head_neck'"),
        ({"settings": "[site.default]\ncolour = 1\n"}, "settings.toml: .*colour"),
        ({"gates": "[limits]\nfoldin = 1\n"}, "gates.toml: limits.foldin.*'folding'"),
        ({"hu_table": "schneider-1000"}, "shipped tables"),
    ],
)
def test_wrong_options_are_refused_before_there_is_a_job(hospital: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says) as refused:
        adapt_spec(hospital.library, hospital.site, PLAN, hospital.days[0], AdaptOptions(**options))
    assert type(refused.value).__name__ in ("ConfigError", "MaterialError")


def test_options_are_strict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"options of dose: spacng_mm: unknown key; did you mean 'spacing_mm'"):
        options_from(JobKind.DOSE, {"spacng_mm": 2.0})
    with pytest.raises(ConfigError, match=r"goals\.toml: coverag: unknown key"):
        options_from(JobKind.ADAPT, {"goals": "coverag = []"})
    with pytest.raises(ConfigError, match="machines"):
        options_from(JobKind.DOSE, {"machines": {"../m.toml": "0" * 64}})
    with pytest.raises(ConfigError, match=r"scenarios\.toml"):
        require_sound(EvaluateOptions(scenarios="[[scenario]]\nname = 'a'\nshift = 1\n"), tmp_path)


def test_an_image_that_cannot_be_a_day_of_the_plan_is_refused(hospital: Any) -> None:
    library, site = hospital.library, hospital.site
    planning = next(s for s in library.series("north") if s.instances == 30 and s.series_uid not in hospital.days)
    with pytest.raises(DicomError, match="is the planning CT"):
        adapt_spec(library, site, PLAN, planning.series_uid, AdaptOptions())
    foreign = sent_again(hospital, PatientID="Other-1")
    with pytest.raises(DicomError, match="carries another patient ID"):
        adapt_spec(library, site, PLAN, foreign, AdaptOptions())
    assert adapt_spec(library, site, PLAN, foreign, AdaptOptions(accept_patient_mismatch=True)).image
    gone = ("AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime", "SeriesDate", "SeriesTime")
    undated = sent_again(hospital, **dict.fromkeys((*gone, "AcquisitionDateTime"), ""))
    with pytest.raises(DicomError, match="does not say when it was acquired"):
        adapt_spec(library, site, PLAN, undated, AdaptOptions())
    with pytest.raises(DicomError, match="is not in the library of site 'south'"):
        adapt_spec(library, Site(name="south"), PLAN, hospital.days[0], AdaptOptions())


def sent_again(hospital: Any, **values: str) -> str:
    """The first day's first slice as a series of its own with other values."""
    first = hospital.library.instances("north", series_uid=hospital.days[0])[0]
    dataset, written = dcmread(BytesIO(hospital.library.data("north", first.sop_uid))), BytesIO()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(written)
    return str(hospital.library.receive("north", written.getvalue()).series_uid)
