"""Water scans from text: what is read, and that broken files are named with file and line."""

from pathlib import Path

import numpy as np
import pytest

from doseeng.errors import MachineError
from doseeng.machines.scandata import OutputFactor
from doseeng.machines.scans import read_scans

PROFILE = """# doseeng scan
# measured in the big tank
# axis = x
# field_x_mm = 100
# field_y_mm = 60
# ssd_mm = 900
# depth_mm = 50
position_mm,dose
20,0.5
-20,0.4
0,1.0
"""
DEPTH = """
# doseeng scan
# axis = depth
# field_x_mm = 100
# field_y_mm = 100
# ssd_mm = 1000
position_mm,dose
0,0.5
15,1.0
100,0.66
"""
WIDE = """# ssd_mm = 900
depth_cm,PDD_3x3,10x20
0.5,80,82
1.5,100,100
10,60,67
"""
FACTORS = """# ssd_mm = 950
# depth_mm = 50
field_cm,factor
3,0.88
10,1.0
"""
W2CAD = """$NUMS 003
$STOM
# Comment: M\xfcller
%VERSION 02
%BMTY PHO
%FLSZ 100*080
%TYPE OPD
%AXIS Z
%PNTS 3
%SSD  1000
<+000.0 +000.0 -100.0 +066.0>
<+000.0 +000.0 -015.0 +100.0>
<+000.0 +000.0 +000.0 +050.0>
$ENOM
$STOM
%BMTY PHO
%FLSZ 030 * 030
%TYPE OPP
%AXIS Y
%SSD  900
%DPTH 015
<+000.0 -065.2 +015.0 +000.5>
<+000.0 +000.0 +015.0 +100.0>
<+000.0 +065.2 +015.0 -000.1>
$ENOM
$STOM
%FLSZ 400*400
%TYPE DPR
%AXIS D
%SSD\t900
%DPTH 100
<-030.0 -040.0 +100.0 +098.0>
<+000.0 +000.0 +100.0 +100.0>
<+030.0 +040.0 +100.0 +099.0>
$ENOM
$ENOF
"""


def put(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_bytes(text.encode("latin-1"))
    return folder


def test_scans_below_each_other_are_read_and_sorted(tmp_path: Path) -> None:
    profile, depth = read_scans(put(tmp_path, tank_csv=PROFILE + DEPTH)).scans
    assert (profile.kind, profile.field_mm, profile.ssd_mm, profile.depth_mm) == ("profile-x", (100, 60), 900, 50)
    np.testing.assert_array_equal(profile.position_mm, [-20, 0, 20])
    np.testing.assert_array_equal(profile.dose, [0.4, 1.0, 0.5])
    assert (depth.kind, depth.field_mm, depth.ssd_mm, depth.depth_mm) == ("depth", (100, 100), 1000, None)
    assert profile.file == depth.file == "tank.csv"


@pytest.mark.parametrize(("axis", "kind"), [("y", "profile-y"), ("diagonal", "diagonal")])
def test_axes_of_profiles(tmp_path: Path, axis: str, kind: str) -> None:
    [scan] = read_scans(put(tmp_path, a_csv=PROFILE.replace("axis = x", f"axis = {axis}"))).scans
    assert scan.kind == kind


def test_depth_doses_side_by_side_are_in_cm(tmp_path: Path) -> None:
    small, large = read_scans(put(tmp_path, pdd_csv="\ufeff".encode().decode("latin-1") + WIDE)).scans
    assert (small.kind, small.field_mm, large.field_mm) == ("depth", (30, 30), (100, 200))
    assert small.ssd_mm == 900
    np.testing.assert_allclose(small.position_mm, [5, 15, 100])
    np.testing.assert_array_equal(large.dose, [82, 100, 67])
    [in_mm, _] = read_scans(put(tmp_path, pdd_csv=WIDE.replace("depth_cm", "depth_mm"))).scans
    np.testing.assert_allclose(in_mm.position_mm, [0.5, 1.5, 10])


def test_reference_depth_doses_assume_their_ssd_aloud(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "photon_mc" / "ssd100_pdd_water_mohan6.csv"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    read = read_scans(tmp_path)
    assert [s.field_mm[0] for s in read.scans][:3] == [10, 20, 30]
    assert {s.ssd_mm for s in read.scans} == {1000}
    assert [n.code for n in read.notices] == ["ssd-assumed"]
    ten = next(s for s in read.scans if s.field_mm == (100, 100))
    assert 0.6 < np.interp(100, ten.position_mm, ten.dose) / ten.dose.max() < 0.7


def test_output_factors(tmp_path: Path) -> None:
    rectangles = "# ssd_mm=950\n# depth_mm=50\nfield_x_mm,field_y_mm,factor\n40,200,0.97\n"
    read = read_scans(put(tmp_path, a_csv=FACTORS, b_csv=rectangles, c_csv=FACTORS.replace("field_cm", "field_mm")))
    assert read.output_factors == (
        OutputFactor((30, 30), 0.88, 950, 50),
        OutputFactor((100, 100), 1.0, 950, 50),
        OutputFactor((40, 200), 0.97, 950, 50),
        OutputFactor((3, 3), 0.88, 950, 50),
        OutputFactor((10, 10), 1.0, 950, 50),
    )


def test_w2cad(tmp_path: Path) -> None:
    read = read_scans(put(tmp_path, open_ASC=W2CAD))
    depth, profile, diagonal = read.scans
    assert (depth.kind, depth.field_mm, depth.ssd_mm, depth.depth_mm) == ("depth", (100, 80), 1000, None)
    np.testing.assert_array_equal(depth.position_mm, [0, 15, 100])
    np.testing.assert_array_equal(depth.dose, [50, 100, 66])
    assert (profile.kind, profile.field_mm, profile.ssd_mm, profile.depth_mm) == ("profile-y", (30, 30), 900, 15)
    np.testing.assert_array_equal(profile.position_mm, [-65.2, 0, 65.2])
    assert diagonal.kind == "diagonal"
    np.testing.assert_allclose(diagonal.position_mm, [-50, 0, 50])
    assert read.notices == ()


def test_wedged_scans_and_other_files_are_left_out_aloud(tmp_path: Path) -> None:
    read = read_scans(put(tmp_path, open_asc=W2CAD.replace("TYPE OPP", "TYPE WDP"), notes_txt="hello"))
    assert [s.kind for s in read.scans] == ["depth", "diagonal"]
    assert [(n.code, n.where) for n in read.notices] == [
        ("file-left-out", "notes.txt"),
        ("wedged-scan-left-out", "open.asc"),
    ]
    assert "line 15" in read.notices[1].message


@pytest.mark.parametrize(
    ("text", "old", "new", "line", "message"),
    [
        (PROFILE, "-20,0.4", "-20,abc", 10, "dose is 'abc', expected a number"),
        (PROFILE, "-20,0.4", "-20,nan", 10, "dose is nan, expected a finite number"),
        (PROFILE, "-20,0.4", "-20;0.4", 10, "1 values, expected 2: position_mm, dose"),
        (PROFILE, "-20,0.4", "20,0.4", 10, "position 20 mm occurs twice"),
        (PROFILE, "-20,0.4\n", "", 1, "the scan has 2 points, expected at least 3"),
        (PROFILE, "0.5\n-20,0.4\n0,1.0", "0\n-20,0\n0,0", 1, "no dose above zero"),
        (PROFILE, "axis = x", "axis = u", 3, "axis is 'u', expected depth, x, y, diagonal"),
        (PROFILE, "# axis = x\n", "", 1, "the line '# axis = ...' is missing"),
        (PROFILE, "# depth_mm = 50\n", "", 1, "the line '# depth_mm = ...' is missing"),
        (PROFILE, "ssd_mm = 900", "ssd_cm = 90", 6, "key 'ssd_cm' is not known"),
        (PROFILE, "ssd_mm = 900", "ssd_mm = -900", 6, "ssd_mm is -900, expected a positive number"),
        (PROFILE, "depth_mm = 50", "ssd_mm = 50", 7, "'ssd_mm' is there twice"),
        (PROFILE, "0,1.0", "# ssd_mm = 800", 11, "'ssd_mm' stands below its table"),
        (PROFILE, "position_mm,dose\n", "", 8, "columns 20, 0.5 are not known"),
        (PROFILE, PROFILE[PROFILE.index("position") :], "", 1, "no header line"),
        (DEPTH, "ssd_mm = 1000", "ssd_mm = 1000\n# depth_mm = 5", 7, "depth_mm stands in a depth dose"),
        (WIDE, "10x20", "wedge", 2, "column 'wedge' does not name a field in cm"),
        (WIDE, "10x20", "0x20", 2, "the field of column '0x20' is 0, expected a positive number"),
        (WIDE, ",82", "", 3, "2 values, expected 3"),
        (WIDE, "ssd_mm", "depth_mm", 1, "'depth_mm' means nothing here"),
        (WIDE, WIDE[WIDE.index("depth_cm") :], "depth_cm\n1\n", 2, "no column beside depth_cm"),
        (FACTORS, "# depth_mm = 50\n", "", 1, "the line '# depth_mm = ...' is missing"),
        (FACTORS, "0.88", "-0.88", 4, "factor is -0.88, expected a positive number"),
        (FACTORS, "3,0.88\n10,1.0\n", "", 1, "no output factor below the header"),
        (FACTORS, FACTORS, "\n", 1, "the file is empty"),
    ],
)
def test_broken_csv_is_named_with_its_line(
    tmp_path: Path, text: str, old: str, new: str, line: int, message: str
) -> None:
    assert old in text
    with pytest.raises(MachineError, match=rf"odd\.csv, line {line}: ") as caught:
        read_scans(put(tmp_path, odd_csv=text.replace(old, new, 1)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("%BMTY PHO", "%BMTY ELE", 5, "%BMTY is 'ELE', expected PHO"),
        ("TYPE OPD", "TYPE XYZ", 7, "%TYPE is 'XYZ', expected OPD, OPP, DPR"),
        ("%TYPE OPD\n", "", 2, "the scan has no %TYPE"),
        ("AXIS Y", "AXIS Z", 19, "%AXIS is 'Z', expected X or Y"),
        ("%DPTH 015\n", "", 15, "the scan has no %DPTH"),
        ("100*080", "100", 6, "%FLSZ is '100', expected two sides"),
        ("100*080", "100*-80", 6, "%FLSZ is -80, expected a positive number"),
        ("PNTS 3", "PNTS 301", 14, "the scan has 3 points, but %PNTS says 301"),
        ("SSD  1000", "SSD  far", 10, "%SSD is 'far', expected a number"),
        ("-015.0 +100.0>", "-015.0>", 12, "is no point; expected <x y depth dose>"),
        ("-015.0 +100.0>", "-015.0 +100.0", 12, "is no point"),
        ("-015.0 +100.0>", "-015.0 +1oo.0>", 12, "dose is '+1oo.0', expected a number"),
        ("<+000.0 +000.0 -015.0", "+000.0 +000.0 -015.0", 12, "is neither a key"),
        ("$ENOM\n$STOM", "$STOM", 14, "$STOM inside the scan that begins in line 2"),
        ("$ENOM\n$ENOF\n", "", 26, "has no end ($ENOM)"),
        (W2CAD, ":MSR 3\n", 1, "no scan ($STOM) in the file"),
    ],
)
def test_broken_w2cad_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in W2CAD
    with pytest.raises(MachineError, match=rf"odd\.asc, line {line}: ") as caught:
        read_scans(put(tmp_path, odd_asc=W2CAD.replace(old, new, 1)))
    assert message in str(caught.value)


def test_a_folder_without_scans_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="nowhere does not exist"):
        read_scans(tmp_path / "nowhere")
    with pytest.raises(MachineError, match="holds no scan"):
        read_scans(put(tmp_path, notes_txt="hello"))
