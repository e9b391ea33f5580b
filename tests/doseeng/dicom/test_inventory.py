"""What lies in a folder, without reading pixels and without naming anyone."""

from collections.abc import Callable
from pathlib import Path

from pydicom.dataset import FileDataset

from doseeng.dicom.inventory import links_of, scan, series_of

Builder = Callable[..., list[FileDataset]]
Saver = Callable[..., list[Path]]


def test_objects_are_grouped_and_other_files_counted(
    ct_slices: Builder, dose_object: Callable[..., FileDataset], saved: Saver, tmp_path: Path
) -> None:
    saved(ct_slices())
    saved([dose_object()], "dose")
    scout = ct_slices()[:1]
    scout[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout[0].SOPInstanceUID = scout[0].file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    saved(scout, "scout")
    (tmp_path / "README.txt").write_text("no DICOM")
    (tmp_path / "empty").write_bytes(b"")
    inventory = scan(tmp_path)
    assert inventory.other_files == 2
    assert inventory.notices == ()
    found = {s.role: s.count for s in series_of(inventory)}
    assert found == {"CT slice": 5, "CT localizer": 1, "dose (PLAN, PHYSICAL, GY)": 1}
    assert [(link.kind, link.is_found) for link in links_of(inventory)] == [("dose -> plan", False)]
    assert "id-of-phantom" not in repr(inventory)
    assert "Secret" not in repr(inventory)


def test_cut_off_file_becomes_a_notice(ct_slices: Builder, saved: Saver, tmp_path: Path) -> None:
    paths = saved(ct_slices())
    paths[2].write_bytes(paths[2].read_bytes()[:-7])
    inventory = scan(tmp_path)
    assert len(inventory.objects) == 4
    assert [(n.code, n.where) for n in inventory.notices] == [("unreadable-file", "slice2.dcm")]


def test_identical_copies_count_once(ct_slices: Builder, saved: Saver, tmp_path: Path) -> None:
    paths = saved(ct_slices())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "copy.dcm").write_bytes(paths[1].read_bytes())
    inventory = scan(tmp_path)
    assert len(inventory.objects) == 5
    assert [(n.code, n.where) for n in inventory.notices] == [("repeated-file", "sub/copy.dcm")]


def test_real_folder(unzipped: Callable[[str], Path]) -> None:
    inventory = scan(unzipped("dcpt_proton_slab"))
    assert inventory.other_files > 0
    roles = [s.role for s in series_of(inventory)]
    assert "ion plan, 2 treatment and 0 setup beams" in roles
    links = {(link.kind, link.is_found) for link in links_of(inventory)}
    assert links == {
        ("plan -> structure set", True),
        ("structure set -> image series", False),
        ("dose -> plan", True),
    }


def test_setup_beams_are_no_treatment(unzipped: Callable[[str], Path]) -> None:
    (plan,) = [o for o in scan(unzipped("alderson_vmat")).objects if o.modality == "RTPLAN"]
    assert (plan.treatment_beams, plan.role) == (1, "photon or electron plan, 1 treatment and 3 setup beams")
