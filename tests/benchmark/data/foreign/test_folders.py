"""Slices in a folder per channel: what was put into the files is what comes out."""

import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError

BRATS = np.array([0, 1, 2, 4], np.uint8)  # of classes 0–3


@pytest.mark.parametrize(
    ("values", "coding"),
    [(BRATS * 51, "BraTS values × 51, decoded by thresholds"), (BRATS, "BraTS values"), (range(4), "BraTS values")],
)
def test_png_slices_come_out_as_they_went_in(sets, tmp_path, values, coding):
    images, labels = sets.make_set(150)  # more than two batches
    folder = sets.save_folders(tmp_path / "sent", images, np.array(values, np.uint8)[labels])
    opened = sets.run(folder, tmp_path / "out")
    sets.assert_holds(opened, images, labels)
    assert opened.index["subject"].tolist() == [f"slice_{number:03d}" for number in range(150)]
    assert opened.index["off_code"].eq(0).all()
    assert {key: opened.meta[key] for key in sets.META} == sets.META
    assert (opened.meta["format"], opened.meta["annotation"]) == ("PNG slices", coding)
    assert sets.rejected(tmp_path / "out") == []


@pytest.mark.parametrize(
    "names",
    [
        ("t1", "T1CE", "t2", "flair", "seg"),
        ("T1n", "T1c", "T2w", "T2f", "labels"),
        ("T1", "T1_GD", "T2", "Flair", "Mask"),
    ],
)
def test_folders_are_known_by_several_names(sets, tmp_path, names):
    images, labels = sets.make_set(2)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels], names)
    (folder / "preview").mkdir()
    (folder / "T1CE" if "T1CE" in names else folder / names[0]).joinpath("Thumbs.db").write_bytes(b"x")
    sets.assert_holds(sets.run(folder, tmp_path / "out"), images, labels)


@pytest.mark.parametrize(
    "pattern", ["img_{number}_{channel}.png", "{channel}-{number}.png", "{channel}_{number}.PNG", "seg-{number}.png"]
)
def test_files_pair_up_by_name_whatever_says_the_channel(sets, tmp_path, pattern):
    images, labels = sets.make_set(3)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels], pattern=pattern)
    (folder / "T1" / "._img_1_t1.png").write_bytes(b"what macOS leaves")
    sets.assert_holds(sets.run(folder, tmp_path / "out"), images, labels)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("flips", [(-1, -1), (1, 1), (1, -1)])
def test_nifti_slices_are_turned_as_their_affine_says(sets, tmp_path, dims, flips):
    images, labels = sets.make_set(3)
    for number in range(3):
        for name, pixels in zip(sets.FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
            sets.save_nifti(pixels, tmp_path / "sent" / name / f"{number}_{name}.nii.gz", flips, dims)
    opened = sets.run(tmp_path / "sent", tmp_path / "out")
    sets.assert_holds(opened, images, labels)
    assert opened.meta["format"] == "NIfTI slices"


def test_nifti_slices_that_are_none_are_refused(sets, tmp_path):
    images, labels = sets.make_set(3)
    folder = tmp_path / "sent"
    for number in range(3):
        for name, pixels in zip(sets.FOLDERS, (*images[number], BRATS[labels[number]]), strict=True):
            sets.save_nifti(pixels, folder / name / f"{number}.nii")
    nib.save(nib.Nifti1Image(images[0, 0].astype(np.float32), np.eye(4)), folder / "T1" / "0.nii")
    nib.save(nib.Nifti1Image(images[0, :3], np.eye(4)), folder / "T2" / "1.nii")
    coronal = nib.Nifti1Image(images[0, 0][..., None], np.eye(4)[[0, 2, 1, 3]])
    nib.save(coronal, folder / "FLAIR" / "2.nii")
    text = sets.refused(folder, tmp_path / "out")
    assert "T1/0.nii: values are float32; 8 bit" in text
    assert "T2/1.nii: shape (3, 16, 16) is not one slice" in text
    assert "FLAIR/2.nii: its slice is not axial" in text


def test_names_that_do_not_pair_up_are_listed(sets, tmp_path):
    images, labels = sets.make_set(30)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    (folder / "T2" / "slice_003.png").unlink()
    (folder / "FLAIR" / "slice_003.png").unlink()
    (folder / "SEG" / "slice_007.png").rename(folder / "SEG" / "other.png")
    text = sets.refused(folder, tmp_path / "out")
    assert "3 problem(s)" in text
    assert "slice_003: no file in T2, FLAIR" in text
    assert "slice_007: no file in SEG" in text
    assert "other: no file in T1, T1ce, T2, FLAIR" in text
    for path in sorted((folder / "T1").iterdir())[:25]:
        path.unlink()
    text = sets.refused(folder, tmp_path / "out")
    assert text.count("\n  ") == 21
    assert "… and 6 more" in text


def test_folders_and_files_that_cannot_be_told_apart_are_refused(sets, tmp_path):
    images, labels = sets.make_set(2)
    good = sets.save_folders(tmp_path / "good", images, BRATS[labels])

    def altered(change) -> str:
        shutil.rmtree(tmp_path / "sent", ignore_errors=True)
        shutil.copytree(good, tmp_path / "sent")
        change(tmp_path / "sent")
        return sets.refused(tmp_path / "sent", tmp_path / "out")

    assert "no folder for SEG" in altered(lambda sent: shutil.rmtree(sent / "SEG"))
    assert "several folders for T1ce: T1c, T1ce" in altered(lambda sent: (sent / "T1c").mkdir())
    assert "PNG and NIfTI are mixed" in altered(lambda sent: sets.save_nifti(images[0, 0], sent / "T2" / "more.nii"))
    assert "have one name" in altered(lambda sent: shutil.copy(sent / "T1/slice_000.png", sent / "T1/slice_000.PNG"))

    def ambiguous(sent):
        (sent / "T1" / "slice_001.png").rename(sent / "T1" / "slice_000_t1.png")

    assert "slice_000.png and slice_000_t1.png differ by the channel's name alone" in altered(ambiguous)


@pytest.mark.parametrize(
    ("mode", "kind"), [("I;16", "16-bit grey"), ("RGB", "8-bit RGB"), ("P", "palette"), ("LA", "alpha"), ("1", "1-bit")]
)
def test_images_that_are_not_8_bit_grey_are_refused(sets, tmp_path, mode, kind):
    images, labels = sets.make_set(3)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    Image.fromarray(images[1, 2]).convert(mode).save(folder / "T2" / "slice_001.png")
    text = sets.refused(folder, tmp_path / "out")
    assert "1 problem(s)" in text
    assert "T2/slice_001.png" in text
    assert kind in text
    assert "8-bit grey is needed" in text


def test_sizes_that_differ_from_the_cohorts_or_within_the_set_are_refused(sets, tmp_path):
    images, labels = sets.make_set(3, 24)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    assert "24 × 24 px, but the cohort is prepared at 16 px: give image_size=24" in sets.refused(
        folder, tmp_path / "out"
    )
    sets.save_png(images[0, 0, :16, :16], folder / "FLAIR" / "slice_002.png")
    text = sets.refused(folder, tmp_path / "out", image_size=24)
    assert "24 × 24 px: 14 files" in text
    assert "16 × 16 px: 1 files, e.g. FLAIR/slice_002.png" in text

    wide = sets.save_folders(tmp_path / "wide", images[..., :16], BRATS[labels][..., :16])
    assert "no image_size fits" in sets.refused(wide, tmp_path / "out")


def damage(content: bytes, how: int) -> bytes:
    rng = np.random.default_rng(how)
    if how % 2:
        return content[: rng.integers(0, len(content) - 12)]  # without the end chunk nothing is missing
    flipped = bytearray(content)
    flipped[rng.integers(0, len(content) - 12)] ^= rng.integers(1, 256)
    return bytes(flipped)


def test_damaged_files_are_set_aside_with_their_reason(sets, tmp_path):
    """Cut and flipped at 40 places each; a flip in the header may say another kind or size instead."""
    images, labels = sets.make_set(80)
    folder = sets.save_folders(tmp_path / "sent", images, 51 * BRATS[labels])
    for number in range(40):
        path = folder / sets.FOLDERS[number % 5] / f"slice_{number:03d}.png"
        content = path.read_bytes()
        path.write_bytes(content[:33] + damage(content[33:], number))
    opened = sets.run(folder, tmp_path / "out")
    sets.assert_holds(opened, images[40:], labels[40:])
    found = sets.rejected(tmp_path / "out")
    assert [name for name, *_ in found] == [f"slice_{number:03d}" for number in range(40)]
    assert found[1][1] == "T1ce/slice_001.png"
    assert all(reason.startswith("truncated") for *_, reason in found)


def test_damaged_headers_never_end_in_a_traceback(sets, tmp_path):
    images, labels = sets.make_set(2)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    path = folder / "T1" / "slice_001.png"
    content = path.read_bytes()
    for position in range(33):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            assert len(sets.run(folder, tmp_path / "out")) == 1
        except UserError as error:  # the header says another size or kind
            assert "T1/slice_001.png" in str(error)  # noqa: PT017


def test_empty_slices_are_set_aside_and_empty_sets_refused(sets, tmp_path):
    images, labels = sets.make_set(4)
    images[1, 2] = 0
    images[3] = 0
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    opened = sets.run(folder, tmp_path / "out")
    sets.assert_holds(opened, images[[0, 2]], labels[[0, 2]])
    assert sets.rejected(tmp_path / "out") == [
        ("slice_001", "T2/slice_001.png", "T2 is nowhere above zero"),
        ("slice_003", "T1/slice_003.png", "T1 is nowhere above zero"),
    ]
    images[:, 1] = 0
    text = sets.refused(sets.save_folders(tmp_path / "empty", images, BRATS[labels]), tmp_path / "none")
    assert "nothing usable is left of 4. 3 × T1ce is nowhere above zero" in text


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "<script>", "$\\input{x}$", "a\nb", "\u202egnp", "ä" * 120])
def test_files_of_any_name_are_read(sets, tmp_path, name):
    images, labels = sets.make_set(2)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    for channel in sets.FOLDERS:
        (folder / channel / "slice_000.png").rename(folder / channel / f"{name}.png".replace("/", "∕"))
    opened = sets.run(folder, tmp_path / "out")
    order = [1, 0] if name > "slice" else [0, 1]
    sets.assert_holds(opened, images[order], labels[order])
    assert sorted(opened.index["subject"]) == sorted([name.replace("/", "∕"), "slice_001"])


def test_names_that_are_no_utf8_are_shown_with_their_bytes(sets, tmp_path):
    images, labels = sets.make_set(1)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    for channel in sets.FOLDERS:
        path = os.fsencode(folder / channel)
        os.rename(path + b"/slice_000.png", path + b"/\xff\xfe.png")
    opened = sets.run(folder, tmp_path / "out")
    sets.assert_holds(opened, images, labels)
    assert opened.index["subject"].tolist() == ["\\xff\\xfe"]


def test_other_endings_are_told(sets, tmp_path):
    images, labels = sets.make_set(1)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels], pattern="{number}.jpg")
    assert "no .png, .nii or .nii.gz in the channels' folders; found .jpg" in sets.refused(folder, tmp_path / "out")
