import copy
import gzip
import itertools
import json
import os

import nibabel as nib
import numpy as np
import pytest

from benchmark.data.cohorts import LAYOUTS, RejectedSubject, find
from benchmark.data.nifti import Volume, read
from benchmark.errors import UserError

ORIENTATIONS = [
    "".join(axes) for order in itertools.permutations(("LR", "PA", "SI")) for axes in itertools.product(*order)
]


def to_8bit(images: np.ndarray) -> np.ndarray:
    """Each volume divided by its own maximum, times 255, rounded (half to even): by hand in whole numbers."""
    values = images.clip(0).astype(np.int64)
    maximum = values.reshape(len(values), -1).max(1)[:, None, None, None]
    quotient, rest = np.divmod(values * 255, maximum)
    up = (2 * rest > maximum) | ((2 * rest == maximum) & (quotient % 2 == 1))
    return quotient + up


def assert_volume(volume: Volume, images: np.ndarray, labels: np.ndarray, spacing: tuple) -> None:
    assert volume.images.dtype == volume.labels.dtype == np.uint8
    np.testing.assert_array_equal(volume.images, to_8bit(images))
    np.testing.assert_array_equal(volume.labels, labels)
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-5)


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
    for given in ("auto", layout):
        cohort = find(tmp_path, given)
        assert cohort.layout == layout
        assert cohort.name == tmp_path.name
        (subject,) = cohort.subjects
        assert subject.name == name
        assert all(path.is_file() for path in subject.files)
        assert_volume(read(subject), images, labels, nifti.spacing)


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
        assert_volume(read(subject), *content, nifti.spacing)


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
        assert_volume(read(subject), images, labels, nifti.spacing)
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


# --- nnU-Net's dataset.json ---


@pytest.mark.parametrize(
    ("dataset", "order", "values"),
    [
        (  # nnU-Net v2's own BraTS conversion: nested regions, edema 1, necrosis 2
            {
                "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
                "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
                "regions_class_order": [1, 2, 3],
            },
            (0, 1, 2, 3),
            (0, 2, 1, 3),
        ),
        (  # v1, as the Decathlon's file says it
            {
                "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
                "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
            },
            (3, 0, 1, 2),
            (0, 2, 1, 3),
        ),
        (
            {
                "channel_names": {"0": "t2f", "1": "t2w", "2": "t1n", "3": "t1c"},
                "labels": {"background": 0, "peritumoral oedema": 1, "ET": 2, "necrotic_core": 4, "ignore": 5},
            },
            (3, 2, 0, 1),
            (0, 4, 1, 2),
        ),
        (
            {
                "channel_names": {"0": "T1-weighted", "1": "T1 post-contrast", "2": "T2 weighted", "3": "T2 FLAIR"},
                "labels": {"background": 0, "NCR/NET": 3, "ED": 2, "GD-enhancing tumor": 1},
            },
            (0, 1, 2, 3),
            (0, 3, 2, 1),
        ),
    ],
)
def test_nnunet_names_are_understood(tmp_path, nifti, dataset, order, values):
    images, labels = nifti.make_subject(1)
    nifti.save_nnunet(tmp_path, "case", images, labels, dataset=dataset, order=order, values=values)
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": {"0": "T1", "1": "T1ce", "2": "CT", "3": "FLAIR"}}, "no channel is named as T2.*'CT'"),
        ({"channel_names": {"0": "T1", "1": "T1ce"}}, "no channel is named as T2, FLAIR"),
        ({"channel_names": None}, "cannot be understood"),
        ({"labels": {"background": 0, "NCR": 1, "ED": 2, "liver": 3}}, "'liver'"),
        ({"labels": {"background": 0, "NCR": 1, "ED": 2}}, "no label is named as ET"),
        ({"labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3, "enhancing": 4}}, "'enhancing'"),
        ({"labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3]}}, "no label is named as ET"),
        ({"labels": {"1": ["a"]}}, "cannot be understood|cannot tell"),
    ],
)
def test_nnunet_names_that_mean_nothing_are_refused(tmp_path, nifti, change, message):
    nifti.save_nnunet(tmp_path, "case", *nifti.make_subject(1))
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        find(tmp_path)


def test_nnunet_needs_its_dataset_json(tmp_path, nifti):
    nifti.save_nnunet(tmp_path, "case", *nifti.make_subject(1))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json cannot be understood"):
        find(tmp_path)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset\.json is missing"):
        find(tmp_path)


# --- reading: geometry ---


def test_all_48_orientations_give_the_same_volume(tmp_path, nifti):
    assert len(set(ORIENTATIONS)) == 48
    shape, spacing = (6, 7, 8), (3.0, 1.5, 0.75)
    images, labels = nifti.make_subject(2, shape)
    for axes in ORIENTATIONS:
        nifti.save_brats(tmp_path / axes, "a", images, labels, axes=axes, spacing=spacing, suffix=".nii")
        assert_volume(read(only_subject(tmp_path / axes)), images, labels, spacing)


def test_files_of_one_subject_may_be_stored_along_different_axes(tmp_path, nifti):
    images, labels = nifti.make_subject(2)
    nifti.save_brats(tmp_path, "a", images, labels)
    nifti.save(images[2], tmp_path / "a" / "a_t2.nii.gz", axes="SRA")
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


def test_a_tilted_affine_goes_to_the_nearest_axes(tmp_path, nifti):
    images, labels = nifti.make_subject(2)
    nifti.save_brats(tmp_path, "a", images, labels)
    angle = np.radians(20)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for path in (tmp_path / "a").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), tilt @ image.affine), path)
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


def test_nifti2_trailing_axes_and_several_gzip_members_are_read(tmp_path, nifti):
    images, labels = nifti.make_subject(2)
    nifti.save_brats(tmp_path, "a", images, labels)
    folder = tmp_path / "a"
    image = nib.load(folder / "a_t1.nii.gz")
    nib.save(nib.Nifti2Image(image.get_fdata(dtype=np.float32), image.affine), folder / "a_t1.nii.gz")
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[..., None], image.affine), folder / "a_t2.nii.gz")
    nifti.save(images[2][None], folder / "a_t2.nii.gz")
    content = gzip.decompress((folder / "a_flair.nii.gz").read_bytes())
    (folder / "a_flair.nii.gz").write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    content = gzip.decompress((folder / "a_t1ce.nii.gz").read_bytes())
    (folder / "a_t1ce.nii.gz").write_bytes(gzip.compress(content) + bytes(512))
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


# --- reading: intensity and labels ---


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint16", "int32", "float32", "float64", "uint8"])
def test_every_type_of_voxel_gives_the_same_grey_values(tmp_path, nifti, dtype):
    images, labels = nifti.make_subject(3)
    images = images // 5
    nifti.save_brats(tmp_path, "a", images.astype(dtype), labels, suffix=".nii")
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


@pytest.mark.parametrize("maximum", [1, 2, 254, 255, 256, 510, 1000, 1021, 4095, 32767, 65535])
def test_rounding_is_exact_for_every_value_below_a_maximum(tmp_path, nifti, maximum):
    shape = (64, 32, 32)
    images, labels = nifti.make_subject(3, shape)
    images = np.resize(np.arange(maximum + 1), (4, *shape)).astype(np.uint16)
    images[:, 0, 0, 0] = maximum
    nifti.save_brats(tmp_path, "a", images, labels, suffix=".nii")
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


def test_negative_values_are_clipped(tmp_path, nifti):
    images, labels = nifti.make_subject(3)
    images[:, :, :4] = -images.max() * 3
    nifti.save_brats(tmp_path, "a", images, labels)
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


@pytest.mark.parametrize("scale", [(0.37, 0.0), (2.0, -700.0), (-0.5, 900.0), (0.01, 3.0)])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_slope_and_intercept_are_honoured(tmp_path, nifti, scale, dtype):
    slope, intercept = scale
    images, labels = nifti.make_subject(3)
    nifti.save_brats(tmp_path, "a", images, labels)
    for ending, image in zip(("t1", "t1ce", "t2", "flair"), images, strict=True):
        path = tmp_path / "a" / f"a_{ending}.nii.gz"
        nifti.save(image.astype(dtype), path)
        stored = nib.load(path)
        header = bytearray(gzip.decompress(path.read_bytes()))
        header[112:120] = np.array(scale, "<f4").tobytes()  # scl_slope, scl_inter: the stored voxels stay
        path.write_bytes(gzip.compress(bytes(header)))
        np.testing.assert_allclose(nib.load(path).get_fdata(), stored.get_fdata() * slope + intercept, rtol=1e-6)
    real = (images.astype(float) * np.float32(slope) + np.float32(intercept)).clip(0)
    expected = np.rint(real * 255 / real.max((1, 2, 3), keepdims=True))
    volume = read(only_subject(tmp_path))
    np.testing.assert_array_equal(volume.images, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("et", [3, 4])
def test_et_is_3_or_4_in_any_type(tmp_path, nifti, dtype, et):
    images, labels = nifti.make_subject(4)
    nifti.save_brats(tmp_path, "a", images, labels)
    nifti.save(np.where(labels == 3, et, labels).astype(dtype), tmp_path / "a" / "a_seg.nii.gz")
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


def test_scaled_annotations_are_read(tmp_path, nifti):
    images, labels = nifti.make_subject(4)
    nifti.save_brats(tmp_path, "a", images, labels)
    path = tmp_path / "a" / "a_seg.nii"
    (tmp_path / "a" / "a_seg.nii.gz").unlink()
    nifti.save(np.array([0, 60, 120, 240], np.uint8)[labels], path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array((1 / 60, 0), "<f4").tobytes()
    path.write_bytes(content)
    assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


# --- reading: what is wrong ---


def with_voxel(value):
    def change(volume):
        volume = volume.astype(np.float32)
        volume[5, 12, 12] = value
        return volume

    return change


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("t1ce", with_voxel(np.nan), "1 voxels of T1ce are NaN or infinite"),
        ("t2", with_voxel(np.inf), "1 voxels of T2 are NaN or infinite"),
        ("flair", lambda volume: volume * 0, "FLAIR is nowhere above zero"),
        ("t1", lambda volume: -volume, "T1 is nowhere above zero"),
        ("t1", lambda volume: volume[:, :, 1:], r"shape \(10, 24, 23\) differs from the annotation's \(10, 24, 24\)"),
        ("t1", lambda volume: volume[0, 0], "is not 3-D"),
        ("t1", lambda volume: np.stack([volume, volume]), "is not 3-D"),
        ("t1", lambda volume: volume.astype(np.complex64), "complex64"),
        ("seg", with_voxel(5), "unknown label value 5; known are 0, 1, 2, 3, 4"),
        ("seg", with_voxel(1.5), r"unknown label value 1\.5"),
        ("seg", with_voxel(-1), "unknown label value -1"),
        ("seg", with_voxel(300), "unknown label value 300"),
        ("seg", with_voxel(np.nan), "unknown label value nan"),
        ("seg", lambda volume: (volume + 7 * (volume == 4)).astype(np.uint8), "unknown label value 11"),
        ("seg", with_voxel(3), "labels 3 and 4 are both there"),
    ],
)
def test_bad_voxels_are_refused_with_file_and_reason(tmp_path, nifti, file, change, reason):
    nifti.save_brats(tmp_path, "a", *nifti.make_subject(5))
    subject = only_subject(tmp_path)
    path = tmp_path / "a" / f"a_{file}.nii.gz"
    nifti.save(change(np.asarray(nib.load(path).dataobj).T), path)
    with pytest.raises(RejectedSubject, match=reason) as caught:
        read(subject)
    assert caught.value.file == path
    assert str(copy.copy(caught.value)) == str(caught.value)  # crosses process borders


def test_affines_must_agree_to_a_hundredth_of_a_millimetre(tmp_path, nifti):
    images, labels = nifti.make_subject(5)
    nifti.save_brats(tmp_path, "a", images, labels)
    path = tmp_path / "a" / "a_t2.nii.gz"
    image = nib.load(path)
    for moved, refused in ((0.005, False), (0.5, True)):
        affine = image.affine.copy()
        affine[1, 3] += moved
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), affine), path)
        if refused:
            with pytest.raises(RejectedSubject, match="affine differs"):
                read(only_subject(tmp_path))
        else:
            assert_volume(read(only_subject(tmp_path)), images, labels, nifti.spacing)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0, 1, 100, 348, 400, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, nifti, suffix, keep):
    nifti.save_brats(tmp_path, "a", *nifti.make_subject(5), suffix=suffix)
    path = tmp_path / "a" / f"a_flair{suffix}"
    size = path.stat().st_size
    os.truncate(path, keep if isinstance(keep, int) else int(keep * size))
    with pytest.raises(RejectedSubject, match="truncated or unreadable") as caught:
        read(only_subject(tmp_path))
    assert caught.value.file == path


def test_singular_and_implausible_affines_are_refused(tmp_path, nifti):
    nifti.save_brats(tmp_path, "a", *nifti.make_subject(5))
    path = tmp_path / "a" / "a_seg.nii.gz"
    image = nib.load(path)
    for scale, reason in ((0, "singular"), (np.nan, "singular"), (1e-3, "not plausible"), (100, "not plausible")):
        broken = nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
        broken.header["sform_code"] = 1
        broken.header["srow_x"] = np.array(image.affine[0]) * scale
        # Written by hand: nibabel would replace the affine.
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[252:256] = np.array([0, 1], "<i2").tobytes()  # qform_code, sform_code
        content[280:328] = np.array([image.affine[0] * scale, *image.affine[1:3]], "<f4").tobytes()
        path.write_bytes(gzip.compress(bytes(content)))
        with pytest.raises(RejectedSubject, match=reason):
            read(only_subject(tmp_path))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_damaged_file_is_read_or_refused_but_never_breaks_the_reader(tmp_path, nifti):
    """Every byte of the header overwritten, one at a time, and bytes inside a compressed file."""
    images, labels = nifti.make_subject(5, (3, 5, 4))
    outcomes = set()
    for suffix, positions in ((".nii", range(352)), (".nii.gz", range(0, 120, 3))):
        nifti.save_brats(tmp_path / suffix, "a", images, labels, suffix=suffix)
        subject = only_subject(tmp_path / suffix)
        path = subject.images[0]
        whole = path.read_bytes()
        for position in positions:
            damaged = bytearray(whole)
            damaged[position] = 0x7F if position % 2 else 0xFF
            path.write_bytes(damaged)
            try:
                outcomes.add(read(subject).images.shape)
            except RejectedSubject as rejected:
                outcomes.add(rejected.file)
        path.write_bytes(whole)
    assert outcomes == {(4, 3, 5, 4), tmp_path / ".nii/a/a_t1.nii", tmp_path / ".nii.gz/a/a_t1.nii.gz"}
