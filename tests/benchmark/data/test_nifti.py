"""Reading one subject: geometry, grey values, annotation, and files that are not what they seem."""

import copy
import gzip
import itertools
import os
import zlib
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from benchmark.data import stored
from benchmark.data.cohorts import RejectedSubject, find
from benchmark.data.nifti import inspect_annotation, read
from benchmark.data.reading import understand

ORIENTATIONS = [
    "".join(axes) for order in itertools.permutations(("LR", "PA", "SI")) for axes in itertools.product(*order)
]


def only_subject(folder):
    """The one subject of a folder, with what its annotation's values mean."""
    cohort = find(folder)
    assert cohort.rejections == []
    (subject,) = understand(cohort).cohort.subjects
    return subject


def refused(subject, match):
    with pytest.raises(RejectedSubject, match=match) as caught:
        read(subject)
    return caught.value


# --- reading: geometry ---


def test_all_48_orientations_give_the_same_volume(tmp_path, nifti):
    assert len(set(ORIENTATIONS)) == 48
    shape, spacing = (6, 7, 8), (3.0, 1.5, 0.75)
    images, labels = nifti.make_subject(2, shape)
    for axes in ORIENTATIONS:
        nifti.save_brats(tmp_path / axes, "a", images, labels, axes=axes, spacing=spacing, suffix=".nii")
        nifti.assert_volume(read(only_subject(tmp_path / axes)), images, labels, spacing)


def test_files_of_one_subject_may_be_stored_along_different_axes(tmp_path, nifti):
    images, labels = nifti.make_subject(2)
    nifti.save_brats(tmp_path, "a", images, labels)
    nifti.save(images[2], tmp_path / "a" / "a_t2.nii.gz", axes="SRA")
    nifti.assert_volume(read(only_subject(tmp_path)), images, labels)


def test_a_tilted_affine_goes_to_the_nearest_axes(tmp_path, nifti):
    images, labels = nifti.make_subject(2)
    nifti.save_brats(tmp_path, "a", images, labels)
    angle = np.radians(20)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for path in (tmp_path / "a").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), tilt @ image.affine), path)
    nifti.assert_volume(read(only_subject(tmp_path)), images, labels)


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
    nifti.assert_volume(read(only_subject(tmp_path)), images, labels)


# --- reading: intensity and labels ---


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint16", "int32", "float32", "float64", "uint8"])
def test_every_type_of_voxel_gives_the_same_grey_values(tmp_path, nifti, dtype):
    images, labels = nifti.make_subject(3)
    images = images // 5
    nifti.save_brats(tmp_path, "a", images.astype(dtype), labels, suffix=".nii")
    nifti.assert_volume(read(only_subject(tmp_path)), images, labels)


@pytest.mark.parametrize("maximum", [1, 2, 254, 255, 256, 510, 1000, 1021, 4095, 32767, 65535])
def test_rounding_is_exact_for_every_value_below_a_maximum(tmp_path, nifti, maximum):
    shape = (65, 33, 32)
    images, labels = nifti.make_subject(3, shape)
    images = np.zeros((4, *shape), np.uint16)
    images[:, :64, :32] = np.resize(np.arange(maximum + 1), (64, 32, 32))
    images[:, 1, 1, 1] = maximum
    nifti.save_brats(tmp_path, "a", images, labels, suffix=".nii")
    nifti.assert_volume(read(only_subject(tmp_path)), images, labels)


@pytest.mark.parametrize("scale", [(0.37, 0.0), (2.0, -3.0), (-0.5, 0.0), (0.01, 2.0)])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_slope_and_intercept_are_honoured(tmp_path, nifti, scale, dtype):
    slope, intercept = scale
    images, labels = nifti.make_subject(3)
    images *= 1 if slope > 0 else -1
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
    nifti.assert_volume(read(only_subject(tmp_path)), images, labels)


def test_scaled_annotations_are_read(tmp_path, nifti):
    images, labels = nifti.make_subject(4)
    nifti.save_brats(tmp_path, "a", images, labels)
    path = tmp_path / "a" / "a_seg.nii"
    (tmp_path / "a" / "a_seg.nii.gz").unlink()
    nifti.save(np.array([0, 60, 120, 240], np.uint8)[labels], path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array((1 / 60, 0), "<f4").tobytes()
    path.write_bytes(content)
    nifti.assert_volume(read(only_subject(tmp_path)), images, labels)


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
        ("t1", lambda volume: np.full_like(volume, 7), "every voxel of T1 is 7: there is no image in it"),
        ("t1", with_voxel(1e35), "no grey values"),
        ("t1", lambda volume: volume.max() - volume, "corners of T1, where air is, are at .* inverted grey"),
        ("t1", lambda volume: volume + 1024, "corners of T1, where air is, are at 1024 in 1024"),
        ("seg", with_voxel(5), "unknown label value 5 in 1 voxels; known are 0, 1, 2, 4"),
        ("seg", with_voxel(1.5), r"label value 1\.5 in 1 voxels: labels are whole numbers"),
        ("seg", with_voxel(-1), "unknown label value -1 in 1"),
        ("seg", with_voxel(300), "unknown label value 300"),
        ("seg", with_voxel(70000), "label value 70000"),
        ("seg", with_voxel(np.nan), "label value nan"),
        ("seg", lambda volume: (volume + 7 * (volume == 4)).astype(np.uint8), "unknown label value 11"),
        ("seg", with_voxel(3), "unknown label value 3"),
        ("seg", lambda volume: volume * 1e-6, "label value 1e-06, 2e-06, 4e-06 in"),  # shrunk, and so empty if rounded
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


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [1, 100, 348, 400, 0.5, 0.999])
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
    subject, image = only_subject(tmp_path), nib.load(path)
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
            read(subject)


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


# --- negative values and dark air ---


def save_float(nifti, folder, images, labels):
    """One subject whose images [4, x, y, z] are real numbers."""
    for ending, image in zip(("t1", "t1ce", "t2", "flair"), images, strict=True):
        nifti.save_array(np.float32(image), folder / "a" / f"a_{ending}.nii.gz")
    nifti.save_array(labels, folder / "a" / "a_seg.nii.gz")
    return only_subject(folder)


def z_scored(image, everywhere):
    inside = image[image > 0]
    score = (image - inside.mean()) / inside.std()
    return score if everywhere else np.where(image > 0, score, 0)


@pytest.mark.parametrize(
    "normalize",
    [
        lambda image: image / image.max() * 2 - 1,
        lambda image: image / image.max() - 0.5,
        lambda image: z_scored(image, everywhere=False),
        lambda image: z_scored(image, everywhere=True),
        lambda image: z_scored(image, everywhere=False).clip(-1, 1),
        lambda image: np.where(image > 0, image, -1024),
        lambda image: (image - np.median(image[image > 0])) * (image > 0),
    ],
    ids=["-1 … 1", "-0.5 … 0.5", "z in the brain", "z everywhere", "z clipped", "CT's air", "median at 0"],
)
def test_normalized_volumes_are_set_aside_as_what_they_are(tmp_path, nifti, normalize):
    images, labels = nifti.brain_with_tumour(0)
    negative = (normalize(images[0].astype(float)) < 0).mean()
    subject = save_float(nifti, tmp_path, [normalize(image.astype(float)) for image in images], labels)
    assert f"{negative:.0%} of the voxels of T1 are negative" in refused(subject, "before normalization").reason


@pytest.mark.parametrize("order", [2, 3, 5])
def test_what_interpolation_swings_below_0_is_cut(tmp_path, nifti, order):
    """Brains with a sharp edge, shifted by half a voxel with splines: some voxels are negative, and become 0."""
    images, labels = nifti.brain_with_tumour(0)
    resampled = [ndimage.shift(image.astype(float), 0.5, order=order) for image in images]
    assert all((image < -1e-6).mean() > 0.02 and image.min() < -20 for image in resampled)
    volume = read(save_float(nifti, tmp_path, resampled, labels))
    expected = [np.rint(np.float32(image).clip(0) * 255.0 / np.float32(image).max()).T for image in resampled]
    assert np.abs(volume.images.astype(int) - np.array(expected)).max() <= 1
    share = volume.facts["modalities"]["T1"]["negative_share"]
    assert share == pytest.approx((np.float32(resampled[0]) < 0).mean())


def test_one_far_negative_voxel_is_a_fill_value_and_one_far_bright_voxel_is_told(tmp_path, nifti):
    images, labels = nifti.brain_with_tumour(0)
    images = images.astype(float)
    images[0, 2, 2, 2] = -9999
    images[2, 20, 20, 20] = 30 * images[2].max()
    volume = read(save_float(nifti, tmp_path, images, labels))
    assert volume.images[0].max() == 255
    (remark,) = volume.remarks
    assert remark.startswith("99.9 % of T2 lies at or below 8 of 255")


def test_facts_are_those_of_the_files(tmp_path, nifti):
    images, labels = nifti.brain_with_tumour(0)
    nifti.write_subject(tmp_path / "a", "a")
    subject = only_subject(tmp_path)
    facts = read(subject).facts
    assert facts["orientation"] == "LPS"
    assert facts["shape"] == [48, 48, 32]
    assert facts["voxel_mm"] == [5, 5, 5]
    counted = {name: (labels == value).sum() * 0.125 for name, value in (("NCR", 1), ("ED", 2), ("ET", 4))}
    assert facts["class_ml"] == pytest.approx(counted)
    assert inspect_annotation(subject).values == {value: (labels == value).sum() for value in (0, 1, 2, 4)}
    for name, image in zip(("T1", "T1ce", "T2", "FLAIR"), images, strict=True):
        found = facts["modalities"][name]
        assert (found["min"], found["max"], found["negative_share"]) == (0, image.max(), 0)
        counts, _ = np.histogram(image, found["histogram"]["edges"])
        assert found["histogram"]["counts"] == counts.tolist()
        assert len(counts) == 32


# --- where the grid lies ---


def moved(path, change, like=None):
    """Writes a file's affine anew."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), change(image.affine.copy())), path)


def shifted(x=0.0, y=0.0, z=0.0):
    return lambda affine: affine + np.array([[0, 0, 0, x], [0, 0, 0, y], [0, 0, 0, z], [0, 0, 0, 0]])


def turned(radians):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]
    return lambda affine: affine @ turn


@pytest.mark.parametrize("change", [shifted(0.02, 0.02, 0.02), shifted(z=-0.049), turned(4e-4)])
def test_grids_that_differ_by_rounding_are_one(tmp_path, nifti, change):
    """A hundredth of a voxel of 5 mm is 0.05 mm."""
    images, labels = nifti.brain_with_tumour(0)
    *_, annotation = nifti.write_subject(tmp_path / "a", "a")
    moved(annotation, change)
    nifti.assert_volume(read(only_subject(tmp_path)), images.swapaxes(1, 3), convert(labels), (5, 5, 5))


def convert(labels):
    """Label values [x, y, z] of BraTS 2020 → classes [z, y, x]."""
    return np.array([0, 1, 2, 0, 3])[labels].T


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shifted(0.06), r"the one lies 0\.06 mm from the other$"),
        (shifted(3, 4), r"the one lies 5 mm from the other$"),
        (turned(0.01), r"corners up to 3\.\d+ mm apart"),
        (lambda affine: affine @ np.diag([1, 1, 1.1, 1]), r"corners up to 15\.5 mm apart"),
    ],
)
def test_grids_that_differ_by_more_say_by_how_much(tmp_path, nifti, change, reason):
    *_, flair, _ = nifti.write_subject(tmp_path / "a", "a")
    moved(flair, change)
    assert refused(only_subject(tmp_path), reason).file == flair


def test_a_lost_header_is_named_whichever_file_lost_it(tmp_path, nifti):
    """The origin of the others is (117.5, 117.5, -70)."""
    for which, one in ((4, "images'"), (1, "annotation's")):
        paths = nifti.write_subject(tmp_path / str(which) / "a", "a")
        moved(paths[which], lambda affine: np.diag([-5.0, -5, 5, 1]))
        error = refused(only_subject(tmp_path / str(which)), r"the one lies 180 mm from the other.*\(0, 0, 0\): a lost")
        assert error.file == paths[which]
        assert one in error.reason


def with_forms(path, qform, sform):
    """Writes (affine, code) of both; None leaves one out."""
    image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None)
    image.set_qform(*(qform or (None, 0)))
    image.set_sform(*(sform or (None, 0)))
    nib.save(image, path)


def test_qform_and_sform_must_not_contradict_each_other(tmp_path, nifti):
    """Images mirrored by their qform against their sform, and an annotation that follows the qform."""
    *images, annotation = nifti.write_subject(tmp_path / "a", "a")
    mirrored = nifti.affine * [[-1], [1], [1], [1]]
    for path in images:
        with_forms(path, (mirrored, 1), (nifti.affine, 1))
    with_forms(annotation, (mirrored, 1), None)
    error = refused(only_subject(tmp_path), r"qform and its sform disagree \(corners up to 235 mm apart")
    assert error.file == images[0]


@pytest.mark.parametrize(
    ("qform", "sform"),
    [
        (lambda a: (a, 1), lambda a: (a, 1)),
        (lambda a: (turned(3e-4)(a), 1), lambda a: (a, 2)),
        (lambda a: (a, 1), None),
        (None, lambda a: (a, 4)),
        (lambda a: (-a, 0), lambda a: (a, 1)),  # a code of 0 says that the form means nothing
    ],
)
def test_qform_and_sform_that_agree_or_stand_alone_are_read(tmp_path, nifti, qform, sform):
    images, labels = nifti.brain_with_tumour(0)
    for path in nifti.write_subject(tmp_path / "a", "a"):
        with_forms(path, qform and qform(nifti.affine), sform and sform(nifti.affine))
    nifti.assert_volume(read(only_subject(tmp_path)), images.swapaxes(1, 3), convert(labels), (5, 5, 5))


def test_a_small_shift_between_qform_and_sform_is_seen(tmp_path, nifti):
    t1, *_ = nifti.write_subject(tmp_path / "a", "a")
    with_forms(t1, (shifted(1.0)(nifti.affine), 1), (nifti.affine, 1))
    assert refused(only_subject(tmp_path), r"disagree \(the one lies 1 mm from the other\)").file == t1


def test_files_that_do_not_say_where_they_lie_are_set_aside(tmp_path, nifti):
    paths = nifti.write_subject(tmp_path / "a", "a")
    subject = only_subject(tmp_path)
    for path in paths:
        with_forms(path, None, None)
    assert refused(subject, "neither its qform nor its sform is set").file == paths[4]


def test_an_affine_that_is_the_identity_is_told(tmp_path, nifti):
    nifti.write_subject(tmp_path / "a", "a", affine=np.eye(4))
    assert inspect_annotation(find(tmp_path).subjects[0]).unplaced
    nifti.write_subject(tmp_path / "b", "b")
    assert not inspect_annotation(find(tmp_path / "b").subjects[0]).unplaced


# --- files that are not what they seem ---


def header_with(content, **fields):
    header = nib.Nifti1Header(content[:348])
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + content[348:]


def test_gzip_is_unpacked_as_far_as_the_header_says(tmp_path, nifti):
    """300 MB of zeros behind the voxels, 300 KB as gzip: not unpacked."""
    t1, *_ = nifti.write_subject(tmp_path / "a", "a")
    subject = only_subject(tmp_path)
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(gzip.decompress(t1.read_bytes()))
    t1.write_bytes(packed + b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush())
    refused(subject, "unpacks to more than the 147808 bytes that its header promises")


@pytest.mark.parametrize("change", ["none", "two members", "padding", "cut short", "damaged", "too long"])
@pytest.mark.parametrize("kind", ["noise", "zeros"])  # many packed pieces of one each; one packed piece of many
def test_gzip_larger_than_a_piece_is_unpacked_as_python_does(kind, change):
    whole = os.urandom(700_001) if kind == "noise" else bytes(2_000_001)
    packed = bytearray(gzip.compress(whole))
    most = len(whole) + 1
    if change == "two members":
        packed = gzip.compress(whole[:300_000]) + gzip.compress(whole[300_000:])
    elif change == "padding":
        packed += bytes(200_000)
    elif change == "cut short":
        del packed[-20:]
    elif change == "damaged":
        packed[-7] ^= 1  # of the checksum
    elif change == "too long":
        most = len(whole) - 500_000
    if change in ("cut short", "damaged"):
        with pytest.raises((EOFError, OSError, zlib.error)):
            stored._gunzip(bytes(packed), most)
    else:
        assert bytes(stored._gunzip(bytes(packed), most)) == whole[:most]


def test_a_size_at_the_end_of_gzip_that_lies_takes_no_memory(tmp_path, nifti):
    """The last four bytes are the size before compression, here 4 GB, which readers take as how much to allocate."""
    t1, *_ = nifti.write_subject(tmp_path / "a", "a")
    subject = only_subject(tmp_path)
    t1.write_bytes(t1.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    refused(subject, "truncated or unreadable: .*incorrect length")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dim", "reason"),
    [
        ([3, 32767, 32767, 32767, 1, 1, 1, 1], "GiB of voxels are not plausible"),
        ([3, 480, 480, 320, 1, 1, 1, 1], "promise|bytes of voxels are there"),
        ([7, 48, 48, 32, 1, 1, 1, 0], "its shape is|is not 3-D"),
        ([3, -48, 48, 32, 1, 1, 1, 1], "its shape is"),
        ([3, 48, 48, 31, 1, 1, 1, 1], "unpacks to more|differs from the annotation's"),
        ([2, 48, 1536, 1, 1, 1, 1, 1], "is not 3-D"),
        ([3, 1, 1, 30000, 1, 1, 1, 1], "a volume of 5 × 5 × 150000 mm is not plausible|unpacks to more"),
    ],
)
def test_shapes_that_are_none_are_refused(tmp_path, nifti, suffix, dim, reason):
    t1, *_ = nifti.write_subject(tmp_path / "a", "a", suffix=suffix)
    subject = only_subject(tmp_path)
    content = t1.read_bytes() if suffix == ".nii" else gzip.decompress(t1.read_bytes())
    content = header_with(content, dim=dim)
    t1.write_bytes(content if suffix == ".nii" else gzip.compress(content))
    assert refused(subject, reason).file == t1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
        (b"/annex/objects/MD5E-s1--0.nii.gz\n", "a git-annex pointer"),
        (b"<!DOCTYPE html><html>" + b"x" * 2000, "no NIfTI file: it is a web page"),
        (b"PK\x03\x04" + bytes(2000), "no NIfTI file: it is a zip archive"),
        (bytes(128) + b"DICM" + bytes(2000), "no NIfTI file: it is DICOM"),
        (gzip.compress(gzip.compress(os.urandom(3000))), "no NIfTI file: it was compressed twice"),
        (os.urandom(2000), "truncated or unreadable"),
    ],
    ids=["empty", "lfs", "annex", "html", "zip", "dicom", "twice", "noise"],
)
def test_what_is_no_nifti_file_is_named(tmp_path, nifti, content, reason):
    *_, annotation = nifti.write_subject(tmp_path / "a", "a")
    subject = only_subject(tmp_path)
    annotation.write_bytes(content)
    assert refused(subject, reason).file == annotation


def test_pipes_devices_and_folders_are_not_opened(tmp_path, nifti):
    t1, t1ce, t2, *_ = nifti.write_subject(tmp_path / "a", "a")
    subject = only_subject(tmp_path)
    for path, make, reason in (
        (t2, lambda: t2.mkdir(), "a folder stands where a file should be"),
        (t1ce, lambda: t1ce.symlink_to("/dev/zero"), "a device stands where a file should be"),
        (t1, lambda: os.mkfifo(t1), "a named pipe stands where a file should be"),
    ):
        path.unlink()
        make()
        assert refused(replace(subject, images=(path, *subject.images[1:])), reason).file == path


@pytest.mark.parametrize("size", [-8, 0, 7, 2**31 - 1])
def test_extensions_of_any_length_are_passed_over(tmp_path, nifti, size):
    """An extension says how long it is; a length of 0 or below would never come to an end."""
    images, labels = nifti.brain_with_tumour(0)
    t1, *_ = nifti.write_subject(tmp_path / "a", "a", suffix=".nii")
    content = header_with(t1.read_bytes(), vox_offset=1024)
    extension = np.array([size, 4], "<i4").tobytes()
    t1.write_bytes(content[:348] + b"\x01\0\0\0" + extension + bytes(664) + content[352:])
    nifti.assert_volume(read(only_subject(tmp_path)), images.swapaxes(1, 3), convert(labels), (5, 5, 5))
