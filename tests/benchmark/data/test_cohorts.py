import itertools
import os

import numpy as np
import pytest

from benchmark.data.cohorts import LAYOUTS, find
from benchmark.errors import UserError

ORIENTATIONS = [
    "".join(axes) for order in itertools.permutations(("LR", "PA", "SI")) for axes in itertools.product(*order)
]


def only_subject(folder, layout="auto"):
    cohort = find(folder, layout)
    assert cohort.rejections == []
    (subject,) = cohort.subjects
    return subject


# --- layouts ---


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_volume(tmp_path, nifti, layout, suffix):
    images, labels = nifti.make_subject(0)
    name = {"brats2021": "BraTS2021_00000", "brats2023": "BraTS-GLI-00000-000"}.get(layout, "BRATS_001")
    match layout:
        case "msd":
            nifti.save_msd(tmp_path / "Task01", name, images, labels, suffix)
        case "nnunet":
            nifti.save_nnunet(tmp_path / "Dataset001", name, images, labels, suffix)
        case "brats2023":
            nifti.save_brats(tmp_path / "any", name, images, labels, "2023", suffix, et=3)
        case _:
            nifti.save_brats(tmp_path / "HGG", name, images, labels, "2020", suffix, et=4)
    if layout == "named":
        path = tmp_path / "HGG" / name / f"{name}_t1ce{suffix}"
        path.rename(path.with_name(f"{name}_t1gd{suffix}"))
    for given in ("auto", layout):
        cohort = find(tmp_path, given)
        assert cohort.layout == layout
        assert cohort.name == tmp_path.name
        (subject,) = cohort.subjects
        assert subject.name == name
        assert all(path.is_file() for path in subject.files)
        nifti.assert_volume(nifti.read(cohort, subject), images, labels, nifti.spacing)


def test_brats_folders_may_be_nested_flat_linked_and_odd(tmp_path, nifti):
    content = nifti.make_subject(0)
    cohort = tmp_path / "cohort"
    nifti.save_brats(cohort / "HGG", "BraTS20_Training_355", *content, suffix=".nii")
    odd = cohort / "HGG" / "BraTS20_Training_355"
    (odd / "BraTS20_Training_355_seg.nii").rename(odd / "W39_1998.09.19_Segm.nii")
    nifti.save_brats(cohort / "LGG", "BraTS20_Training_002", *content)
    for name in ("flat_1", "flat_2"):
        nifti.save_brats(tmp_path / "elsewhere", name, *content)
        for path in (tmp_path / "elsewhere" / name).iterdir():
            (cohort / "flat").mkdir(exist_ok=True)
            path.rename(cohort / "flat" / path.name)
    nifti.save_brats(tmp_path / "elsewhere", "linked", *content)
    (cohort / "linked").symlink_to(tmp_path / "elsewhere" / "linked")
    (cohort / "loop").symlink_to(cohort)
    (cohort / "HGG" / "._BraTS20_Training_355_t1.nii").write_bytes(b"macOS")
    found = find(cohort)
    assert [s.name for s in found.subjects] == [
        "BraTS20_Training_002", "BraTS20_Training_355", "flat_1", "flat_2", "linked",
    ]  # fmt: skip
    assert found.rejections == []
    for subject in found.subjects:
        nifti.assert_volume(nifti.read(found, subject), *content, nifti.spacing)


def test_the_folder_of_one_subject_is_a_cohort(tmp_path, nifti):
    nifti.save_brats(tmp_path, "a", *nifti.make_subject(0))
    assert only_subject(tmp_path / "a").name == "a"


def test_equal_names_in_two_folders_stay_apart(tmp_path, nifti):
    for grade in ("HGG", "LGG"):
        nifti.save_brats(tmp_path / grade, "a", *nifti.make_subject(0))
    assert len({subject.name for subject in find(tmp_path).subjects}) == 2


def test_incomplete_subjects_are_listed_and_the_rest_found(tmp_path, nifti):
    for name in "abcd":
        nifti.save_brats(tmp_path / "brats", name, *nifti.make_subject(0))
        nifti.save_msd(tmp_path / "msd", name, *nifti.make_subject(0))
        nifti.save_nnunet(tmp_path / "nnunet", name, *nifti.make_subject(0))
    for path in ("brats/a/a_seg.nii.gz", "brats/b/b_t2.nii.gz", "brats/c/c_t1.nii.gz", "brats/c/c_t1ce.nii.gz",
                 "msd/labelsTr/a.nii.gz", "msd/imagesTr/b.nii.gz",
                 "nnunet/labelsTr/a.nii.gz", "nnunet/imagesTr/b_0003.nii.gz"):  # fmt: skip
        (tmp_path / path).unlink()

    def listed(layout):
        cohort = find(tmp_path / layout)
        return [s.name for s in cohort.subjects], [(r.subject, r.file, r.reason) for r in cohort.rejections]

    assert listed("brats") == (
        ["d"],
        [
            ("a", "a/a_seg.nii.gz", "no annotation"),
            ("b", "b/b_t2.nii.gz", "T2 is missing"),
            ("c", "c/c_t1.nii.gz", "T1 is missing, T1ce is missing"),
        ],
    )
    assert listed("msd") == (
        ["c", "d"],
        [("a", "labelsTr/a.nii.gz", "no annotation"), ("b", "imagesTr/b.nii.gz", "the image file is missing")],
    )
    assert listed("nnunet") == (
        ["c", "d"],
        [("a", "labelsTr/a.nii.gz", "no annotation"), ("b", "imagesTr/b_0003.nii.gz", "FLAIR is missing")],
    )


def test_hostile_names_are_read_and_made_printable(tmp_path, nifti):
    images, labels = nifti.make_subject(0)
    for name in ("Patient Äß 患者", "<script>alert('x')</script>".replace("/", "∕"), 'a,"b"\nc', "x; rm -rf *"):
        nifti.save_brats(tmp_path, name, images, labels)
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.rename(tmp_path / "x; rm -rf *", odd)  # Latin-1, not UTF-8
    cohort = find(tmp_path)
    assert len(cohort.subjects) == 4
    for subject in cohort.subjects:
        subject.name.encode()
        nifti.assert_volume(nifti.read(cohort, subject), images, labels, nifti.spacing)
    assert "caf\\xe9" in [subject.name for subject in cohort.subjects]


def test_what_is_no_cohort_is_refused_with_what_was_looked_for(tmp_path, nifti):
    with pytest.raises(UserError, match="not a folder"):
        find(tmp_path / "none")
    with pytest.raises(UserError, match=r"no \.nii or \.nii\.gz file at all.*Looked for: \*_t1 \*_t1ce"):
        find(tmp_path)
    nifti.save(np.ones(nifti.shape), tmp_path / "brain.nii")
    with pytest.raises(UserError, match=r"1 NIfTI files, e\.g\. brain\.nii"):
        find(tmp_path)
    with pytest.raises(UserError, match="unknown layout 'brats'; known: auto, brats2020"):
        find(tmp_path, "brats")
    nifti.save_brats(tmp_path, "a", *nifti.make_subject(0))
    for layout in ("brats2023", "msd", "nnunet"):
        with pytest.raises(UserError, match="Looked for"):
            find(tmp_path, layout)
    nifti.save_brats(tmp_path, "b", *nifti.make_subject(0), style="2023")
    with pytest.raises(UserError, match="two layouts"):
        find(tmp_path)
    assert only_subject(tmp_path, "brats2023").name == "b"


def test_the_files_of_a_cohort_are_what_is_read(tmp_path, nifti):
    content = nifti.make_subject(0)
    nifti.save_brats(tmp_path / "brats", "a", *content)
    nifti.save_brats(tmp_path / "brats", "b", *content)
    (tmp_path / "brats" / "b" / "b_t1.nii.gz").unlink()
    nifti.save_msd(tmp_path / "msd", "a", *content)
    nifti.save_nnunet(tmp_path / "nnunet" / "Dataset001", "a", *content)
    nifti.save(content[0][0], tmp_path / "nnunet" / "Dataset001" / "imagesTs" / "z_0000.nii.gz")

    def files(layout):
        return {str(path.relative_to(tmp_path / layout)) for path in find(tmp_path / layout).files}

    assert files("brats") == {f"a/a_{ending}.nii.gz" for ending in ("t1", "t1ce", "t2", "flair", "seg")}
    assert files("msd") == {"imagesTr/a.nii.gz", "labelsTr/a.nii.gz"}
    images = {f"Dataset001/imagesTr/a_000{channel}.nii.gz" for channel in range(4)}
    assert files("nnunet") == {*images, "Dataset001/labelsTr/a.nii.gz", "Dataset001/dataset.json"}


def test_an_image_without_its_channel_is_set_aside(tmp_path, nifti):
    nifti.save_nnunet(tmp_path, "a", *nifti.make_subject(0))
    (tmp_path / "imagesTr" / "a_0002.nii.gz").rename(tmp_path / "imagesTr" / "a_02.nii.gz")
    assert [(rejection.subject, rejection.reason) for rejection in find(tmp_path).rejections] == [
        ("a", "T2 is missing"),
        ("a_02", "T1 is missing, T1ce is missing, T2 is missing, FLAIR is missing, no annotation"),
    ]


def test_a_cohort_without_any_annotation_is_set_aside_for_that(tmp_path, nifti):
    for name in ("a", "b"):
        nifti.save_brats(tmp_path, name, *nifti.make_subject(0), style="2023")
        (tmp_path / name / f"{name}-seg.nii.gz").unlink()
    cohort = find(tmp_path)
    assert (cohort.layout, cohort.subjects) == ("brats2023", [])
    assert {rejection.reason for rejection in cohort.rejections} == {"no annotation"}


@pytest.mark.parametrize("other", ["2023", "msd", "nnunet"])
def test_two_layouts_in_one_folder_are_refused(tmp_path, nifti, other):
    content = nifti.make_subject(0)
    nifti.save_brats(tmp_path, "a", *content)
    if other == "2023":
        nifti.save_brats(tmp_path, "b", *content, style="2023")
        (tmp_path / "b" / "b-seg.nii.gz").unlink()  # not even whole
    else:
        (nifti.save_msd if other == "msd" else nifti.save_nnunet)(tmp_path / "more", "b", *content)
    with pytest.raises(UserError, match=rf"two layouts: brats2020 \(e\.g\. a_.*\) and .*{other}"):
        find(tmp_path)
    assert only_subject(tmp_path, "brats2020").name == "a"
