import csv
import gzip
import json
import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmark.data.cohorts import find
from benchmark.data.preparation import prepare
from benchmark.data.reading import understand
from benchmark.data.slices import SliceSet
from benchmark.data.slicing import centre, resize_images, resize_labels
from benchmark.errors import UserError


@pytest.fixture
def cohort(tmp_path, nifti):
    """Eight good subjects, s0 to s7."""
    folder = tmp_path / "cohort"
    for number in range(8):
        nifti.save_brats(folder, f"s{number}", *nifti.make_subject(number))
    return folder


def run(folder, out, **options):
    return prepare(find(folder), out, **{"image_size": 26, **options})


def rejected(out) -> dict[str, tuple[str, str]]:
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return {row["subject"]: (row["file"], row["reason"]) for row in csv.DictReader(file)}


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def slices_of(opened: SliceSet, subject: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    rows = np.flatnonzero(opened.index["subject"] == subject)
    return opened.images[rows], opened.labels[rows], opened.index["z"][rows].tolist()


def in_8_bit(images: np.ndarray) -> np.ndarray:
    return np.rint(images * 255.0 / images.max((1, 2, 3), keepdims=True)).astype(np.uint8)


def framed(volume: np.ndarray, pad: int) -> np.ndarray:
    return np.pad(volume, [(0, 0)] * (volume.ndim - 2) + [(pad, pad)] * 2)


# --- geometry ---


def test_study_geometry_is_zero_padding_by_8_and_the_15_percent_rule(tmp_path, nifti):
    """240 × 240 mm at 1 mm and 256 px: no pixel is changed."""
    content = {f"s{n}": nifti.make_subject(n, (9, 240, 240)) for n in range(3)}
    for name, (images, labels) in content.items():
        nifti.save_brats(tmp_path / "cohort", name, images, labels, spacing=(1, 1, 1), suffix=".nii")
    result = run(tmp_path / "cohort", tmp_path / "out", image_size=256)
    main, volumes = SliceSet.open(tmp_path / "out"), SliceSet.open(tmp_path / "out" / "volumes")
    for name, (images, labels) in content.items():
        padded = framed(in_8_bit(images), 8)
        kept = [z for z in range(9) if (padded[0, z] > 50).sum() / 256**2 > 0.15]
        assert 0 < len(kept) < 9
        found_images, found_labels, found_z = slices_of(main, name)
        assert found_z == kept
        np.testing.assert_array_equal(found_images, padded[:, kept].swapaxes(0, 1))
        np.testing.assert_array_equal(found_labels, framed(labels, 8)[kept])
        assert main.meta["spacing"][name] == [1, 1, 1]
        if name in volumes.meta["spacing"]:
            found_images, found_labels, found_z = slices_of(volumes, name)
            assert found_z == list(range(9))
            np.testing.assert_array_equal(found_images, padded.swapaxes(0, 1))
            np.testing.assert_array_equal(found_labels, framed(labels, 8))
    assert set(volumes.index["split"]) == {"validation", "test"}
    assert result.subjects == {"train": 1, "validation": 1, "test": 1}
    assert result.slices == dict(Counter(main.index["split"]))
    assert result.rejections == result.warnings == []


def test_slices_are_kept_above_15_percent_of_the_padded_slice_and_above_50(tmp_path, nifti):
    """0.15 × 256² = 9830.4 pixels; of the unpadded slice it would be 8640."""
    bright = [9831, 8641, 9830, 9832, 12000, 0, 9831]  # pixels of each slice
    values = [51, 51, 51, 255, 50, 255, 52]
    images, labels = nifti.make_subject(0, (7, 240, 240))
    for z, (count, value) in enumerate(zip(bright, values, strict=True)):
        images[0, z].flat[:] = [value] * count + [50] * (240 * 240 - count)
    for number in range(3):
        images[1, 0, 0, 0] = 2000 + number  # three patients
        nifti.save_brats(tmp_path / "cohort", f"s{number}", images, labels, spacing=(1, 1, 1), suffix=".nii")
    run(tmp_path / "cohort", tmp_path / "out", image_size=32)
    assert slices_of(SliceSet.open(tmp_path / "out"), "s1")[2] == [0, 3, 6]


def test_the_field_of_view_is_in_millimetres(tmp_path, nifti):
    """24 × 24 pixels of 8 × 16 mm are padded to 32 rows and cropped to 16 columns, then resized to a square."""
    for n in range(3):
        nifti.save_brats(tmp_path / "cohort", f"s{n}", *nifti.make_subject(n), spacing=(5.0, 8.0, 16.0))
    result = run(tmp_path / "cohort", tmp_path / "out", image_size=32)
    opened = SliceSet.open(tmp_path / "out" / "volumes")
    for name in opened.meta["spacing"]:
        assert opened.meta["spacing"][name] == [5.0, 8.0, 8.0]
        labels = nifti.make_subject(int(name[1:]))[1]
        expected = np.repeat(np.pad(labels[:, :, 4:20], ((0, 0), (4, 4), (0, 0))), 2, axis=2)
        np.testing.assert_array_equal(slices_of(opened, name)[1], expected)
    assert len(result.warnings) == 3  # the brain is 24 × 0.8 = 19 pixels wide
    assert "outside the field of view" in result.warnings[0]


def test_a_smaller_field_of_view_shows_the_middle_of_the_same_slices(tmp_path, nifti):
    """192 of 240 mm at 1 mm and 192 px: 24 pixels fall away at every side, and none is changed."""
    content = {f"s{n}": nifti.make_subject(n, (9, 240, 240)) for n in range(3)}
    for name, (images, labels) in content.items():
        nifti.save_brats(tmp_path / "cohort", name, images, labels, spacing=(1, 1, 1), suffix=".nii")
    result = run(tmp_path / "cohort", tmp_path / "out", image_size=192, field_of_view=192)
    opened = SliceSet.open(tmp_path / "out")
    for name, (images, labels) in content.items():
        images = in_8_bit(images)
        kept = [z for z in range(9) if (images[0, z] > 50).sum() / 256**2 > 0.15]  # of the study's field, as ever
        assert 0 < len(kept) < 9
        found_images, found_labels, found_z = slices_of(opened, name)
        assert found_z == kept
        np.testing.assert_array_equal(found_images, images[:, kept, 24:-24, 24:-24].swapaxes(0, 1))
        np.testing.assert_array_equal(found_labels, labels[kept, 24:-24, 24:-24])
        assert opened.meta["spacing"][name] == [1, 1, 1]
        cut = np.count_nonzero(images) - np.count_nonzero(images[..., 24:-24, 24:-24])
        assert f"{name}: {cut} voxels above 0 lie outside the field of view" in result.warnings


@pytest.mark.parametrize("size", [16, 26, 32, 50, 100, 137])
def test_resizing_is_torchs_antialiased_bilinear_and_nearest(size):
    rng = np.random.default_rng(size)
    images = rng.integers(0, 256, (3, 4, 100, 90), np.uint8)
    images[:, :, 70:] = images[:, :, :, :9] = 0
    expected = F.interpolate(torch.from_numpy(images).double(), (size, size), mode="bilinear", antialias=True).numpy()
    assert np.abs(resize_images(images, size) - expected).max() < 0.55  # half a grey level, and the weights' 16 bits
    labels = rng.integers(0, 4, (3, 100, 90), np.uint8)
    expected = F.interpolate(torch.from_numpy(labels)[None].float(), (size, size), mode="nearest-exact")[0]
    np.testing.assert_array_equal(resize_labels(labels, size), expected.byte())


def test_resizing_keeps_constants_and_its_own_size():
    for size in (7, 64, 99, 300):
        assert (resize_images(np.full((2, 4, 99, 99), 201, np.uint8), size) == 201).all()
    assert not resize_images(np.zeros((2, 4, 99, 99), np.uint8), 8).any()
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 99, 99), np.uint8)
    np.testing.assert_array_equal(resize_images(images, 99), images)


@pytest.mark.parametrize(("length", "framed_length"), [(5, 8), (5, 9), (8, 5), (9, 5), (6, 6)])
def test_padding_and_cropping_are_centred(length, framed_length):
    volume = np.arange(1, length + 1)[None, None, None].repeat(3, 2)
    row = centre(volume, np.array([0]), 3, framed_length)[0, 0, 1].tolist()
    before = (framed_length - length) // 2
    padded = [0] * max(before, 0) + list(range(1, length + 1)) + [0] * max(framed_length - length - before, 0)
    assert row == padded[max(-before, 0) :][:framed_length]


# --- setting aside ---


def test_bad_subjects_are_set_aside_with_file_and_reason_and_the_rest_go_on(cohort, tmp_path, nifti):
    images, labels = nifti.make_subject(99)
    for name in ("nan", "label", "short", "empty", "moved", "shape", "thin"):
        nifti.save_brats(cohort, name, images, labels)
    nifti.save_brats(cohort, "bare", images, labels)
    (cohort / "bare" / "bare_seg.nii.gz").unlink()
    bad = images[0].astype(np.float32)
    bad[5, 5, 5] = np.nan
    nifti.save(bad, cohort / "nan" / "nan_t1.nii.gz")
    nifti.save(labels + 7, cohort / "label" / "label_seg.nii.gz")
    os.truncate(cohort / "short" / "short_flair.nii.gz", 2000)
    nifti.save(images[2] * 0, cohort / "empty" / "empty_t2.nii.gz")
    nifti.save(images[1], cohort / "moved" / "moved_t1ce.nii.gz", spacing=(12, 10, 11))
    nifti.save(images[1, :, 1:], cohort / "shape" / "shape_t1ce.nii.gz")
    dark = images[0] // 10
    dark[0, 0, 0] = 3000
    nifti.save(dark, cohort / "thin" / "thin_t1.nii.gz")

    result = run(cohort, tmp_path / "out")
    found = rejected(tmp_path / "out")
    expected = {
        "bare": ("seg", "no annotation"),
        "empty": ("t2", "nowhere above zero"),
        "label": ("seg", "unknown label value 7"),
        "moved": ("t1ce", "affine differs"),
        "nan": ("t1", "1 voxels of T1 are NaN or infinite"),
        "shape": ("t1ce", "shape"),
        "short": ("flair", "truncated or unreadable"),
        "thin": ("t1", "no slice has T1 above 50"),
    }
    assert list(found) == sorted(expected)
    for name, (ending, reason) in expected.items():
        assert found[name][0] == f"{name}/{name}_{ending}.nii.gz"
        assert reason in found[name][1]
    assert {r.subject: (r.file, r.reason) for r in result.rejections} == found
    opened = SliceSet.open(tmp_path / "out")
    assert sorted(set(opened.index["subject"])) == [f"s{n}" for n in range(8)]
    assert sum(result.subjects.values()) == 8

    with pytest.raises(UserError, match=r"8 subject\(s\) cannot be used, and strict is set(.|\n)*short_flair") as error:
        run(cohort, tmp_path / "out", strict=True)
    assert all(name in str(error.value) for name in expected)
    with pytest.raises(UserError, match="no complete slice set"):
        SliceSet.open(tmp_path / "out")
    assert rejected(tmp_path / "out") == found


def test_rejected_csv_is_there_when_nothing_is_rejected(cohort, tmp_path):
    run(cohort, tmp_path / "out", strict=True)
    assert (tmp_path / "out" / "rejected.csv").read_text().splitlines() == ["subject,file,reason"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "images.npy", "index.parquet", "labels.npy", "meta.json", "rejected.csv", "volumes",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 5])
def test_nothing_usable_left_says_so_with_the_reasons(tmp_path, nifti, count):
    for number in range(count):
        images, labels = nifti.make_subject(number)
        nifti.save_brats(tmp_path / "cohort", f"s{number}", images * 0, labels)
    with pytest.raises(UserError, match=rf"nothing usable is left of {count}.*{count} × T1 is nowhere above zero"):
        run(tmp_path / "cohort", tmp_path / "out")
    assert len(rejected(tmp_path / "out")) == count


def test_too_few_usable_subjects_is_an_error_after_reading(tmp_path, nifti):
    for number in range(2):
        nifti.save_brats(tmp_path / "cohort", f"s{number}", *nifti.make_subject(number))
    with pytest.raises(UserError, match=r"2 usable subject\(s\): at least 3"):
        run(tmp_path / "cohort", tmp_path / "out")


def test_copies_are_found_by_content(cohort, tmp_path, nifti):
    """Renamed, compressed otherwise, stored along other axes, as float: still the same patient."""
    images, labels = nifti.make_subject(3)
    nifti.save_brats(cohort, "x_renamed", images, labels)
    nifti.save_brats(cohort, "x_packed", images, labels)
    for path in (cohort / "x_packed").iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    nifti.save_brats(cohort, "x_plain", images, labels, suffix=".nii")
    nifti.save_brats(cohort, "x_turned", images, labels, axes="PIR")
    nifti.save_brats(cohort, "x_float", images.astype(np.float32) * 0.25, labels)
    nifti.save_brats(cohort, "x_new", np.roll(images, 1, axis=2), labels)
    for seed in range(3):
        run(cohort, tmp_path / "out", seed=seed)
        assert {name: reason for name, (_, reason) in rejected(tmp_path / "out").items()} == dict.fromkeys(
            ("x_renamed", "x_packed", "x_plain", "x_turned", "x_float"), "same images as s3"
        )
        opened = SliceSet.open(tmp_path / "out")
        hashes = {}
        for image, split in zip(opened.images, opened.index["split"], strict=True):
            assert hashes.setdefault(image.tobytes(), split) == split


# --- what annotations mean ---

NEW_NAMES = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")


def classes_of(folder, name: str) -> np.ndarray:
    """How many pixels of each class the whole volume of a subject has, at 52 × 52 pixels (48 of 5 mm, padded)."""
    opened = SliceSet.open(folder / "volumes")
    return np.bincount(slices_of(opened, name)[1].ravel(), minlength=4)


def all_test(tmp_path, names) -> Path:
    """A split file by which the volumes hold all but one subject."""
    path = tmp_path / "split.csv"
    first, second, *others = names
    rows = [f"{first},train", f"{second},validation", *(f"{name},test" for name in others)]
    path.write_text("\n".join(["subject,split", *rows]))
    return path


def test_a_resection_cavity_is_never_et(tmp_path, nifti):
    """BraTS 2024: 4 is the cavity, in s3 and s4; 3 is ET."""
    for number in range(5):
        nifti.write_subject(tmp_path / "c" / f"s{number}", f"s{number}", NEW_NAMES, number, et=4 if number > 2 else 3)
    with pytest.raises(UserError, match=r"4 is in 2 subjects \(s3, s4\) of 5.*labels=brats2024"):
        run(tmp_path / "c", tmp_path / "out", image_size=48)
    with pytest.raises(UserError, match="no complete slice set"):
        SliceSet.open(tmp_path / "out")
    split = all_test(tmp_path, [f"s{n}" for n in range(5)])
    result = run(tmp_path / "c", tmp_path / "out", image_size=48, convention="brats2024", split_file=split)
    labels = nifti.brain_with_tumour(0)[1]
    cavity = 2 * np.count_nonzero(labels == 4)
    assert result.warnings == [f"the resection cavity, 4, counts as background: {cavity} voxels in 2 subject(s)"]
    facts = {subject["subject"]: subject for subject in result.cohort["subjects"]}
    assert facts["s0"]["class_ml"]["ET"] == pytest.approx(np.count_nonzero(labels == 4) * 0.125)
    assert facts["s4"]["class_ml"]["ET"] == 0
    assert facts["s4"]["label_values"]["4"] == np.count_nonzero(labels == 4)
    assert classes_of(tmp_path / "out", "s2")[3] > 0
    for name in ("s3", "s4"):
        ncr, ed, et = classes_of(tmp_path / "out", name)[1:]
        assert ncr > 0
        assert ed > 0
        assert et == 0


def test_masks_of_the_whole_tumour_are_said_aloud(tmp_path, nifti):
    for number in range(3):
        nifti.write_subject(tmp_path / "c" / f"s{number}", f"s{number}", seed=number, ed=1, et=1)
    result = run(tmp_path / "c", tmp_path / "out", image_size=32)
    (warning,) = result.warnings
    assert warning.startswith("no subject has ED or ET. Are these masks of the whole tumour?")
    assert result.cohort["absent_classes"] == ["ED", "ET"]
    assert result.cohort["labels"]["classes"] == {"0": "background", "1": "NCR", "2": "ED", "4": "ET"}


def test_dataset_json_decides_channels_and_classes_of_4d_files(tmp_path, nifti):
    """T1, T1ce, T2, FLAIR and 1 necrosis, 2 edema, where the Decathlon has FLAIR first and 1 edema, 2 necrosis."""
    names = [f"case_{n}" for n in range(3)]
    for number, name in enumerate(names):
        images, labels = nifti.brain_with_tumour(number, et=3)
        nifti.save_array(np.moveaxis(images, 0, -1), tmp_path / "c" / "imagesTr" / f"{name}.nii.gz")
        nifti.save_array(labels, tmp_path / "c" / "labelsTr" / f"{name}.nii.gz")
    content = {
        "modality": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
        "labels": {"0": "background", "1": "necrosis", "2": "edema", "3": "enhancing tumor"},
    }
    (tmp_path / "c" / "dataset.json").write_text(json.dumps(content))
    result = run(tmp_path / "c", tmp_path / "out", image_size=48, split_file=all_test(tmp_path, names))
    counted = {name: np.count_nonzero(labels == value) * 0.125 for name, value in (("NCR", 1), ("ED", 2), ("ET", 3))}
    assert result.cohort["labels"]["name"] == "dataset.json"
    for subject in result.cohort["subjects"]:
        assert subject["class_ml"] == pytest.approx(counted)
    images, labels, _ = slices_of(SliceSet.open(tmp_path / "out" / "volumes"), "case_2")
    grey = [np.median(images[:, m][(images[:, m] > 0) & (labels == 0)]) for m in range(4)]
    np.testing.assert_allclose(grey, [255 * level / 0.95 for level in nifti.grey.values()], atol=6)

    (tmp_path / "c" / "dataset.json").unlink()  # then it is the Decathlon's order, and the values are swapped
    swapped = run(tmp_path / "c", tmp_path / "out", image_size=48).cohort["subjects"][0]["class_ml"]
    assert (swapped["NCR"], swapped["ED"]) == (counted["ED"], counted["NCR"])


def test_a_value_that_one_subject_has_sets_it_aside_and_what_most_have_is_asked(cohort, tmp_path, nifti):
    images, labels = nifti.make_subject(50)
    nifti.save_brats(cohort, "odd", images, labels)
    nifti.save(np.where(labels == 3, 9, labels).astype(np.uint8), cohort / "odd" / "odd_seg.nii.gz")
    assert run(cohort, tmp_path / "out").subjects == {"train": 6, "validation": 1, "test": 1}
    assert rejected(tmp_path / "out")["odd"][1].startswith("unknown label value 9 in ")
    for number in range(8):
        nifti.save(np.where(labels == 3, 9, labels).astype(np.uint8), cohort / f"s{number}" / f"s{number}_seg.nii.gz")
    with pytest.raises(UserError, match=r"9 of 9 subjects .*for example 1:NCR,2:ED,9:ET"):
        run(cohort, tmp_path / "out")
    result = run(cohort, tmp_path / "out", convention="1:NCR,2:ED,9:ET")
    assert sum(result.subjects.values()) == 9
    assert SliceSet.open(tmp_path / "out").meta["labels"]["classes"]["9"] == "ET"


def test_affines_that_are_the_identity_are_set_aside_beside_others_and_told_where_all_are(tmp_path, nifti):
    for number in range(5):
        affine = nifti.affine if number else np.eye(4)
        nifti.write_subject(tmp_path / "c" / f"s{number}", f"s{number}", seed=number, affine=affine)
        nifti.write_subject(tmp_path / "d" / f"s{number}", f"s{number}", seed=number, affine=np.eye(4))
    assert run(tmp_path / "c", tmp_path / "out", image_size=32).subjects == {"train": 2, "validation": 1, "test": 1}
    assert "its affine is the identity, others' are not" in rejected(tmp_path / "out")["s0"][1]
    understood = understand(find(tmp_path / "d"))
    assert len(understood.cohort.subjects) == 5
    assert understood.warnings[0].startswith("the affine of every annotation is the identity")


# --- splits ---


def test_no_subject_is_in_two_splits_and_volumes_hold_all_of_validation_and_test(cohort, tmp_path, nifti):
    seen = set()
    for seed in range(4):
        run(cohort, tmp_path / "out", seed=seed, test_share=0.3, validation_share=0.3)
        main, volumes = SliceSet.open(tmp_path / "out"), SliceSet.open(tmp_path / "out" / "volumes")
        split = main.index.groupby("subject", observed=True)["split"].unique()
        assert (split.str.len() == 1).all()
        assert Counter(split.str[0]) == {"train": 4, "validation": 2, "test": 2}
        whole = volumes.index.groupby("subject")["split"].unique().str[0].to_dict()
        assert whole == {name: part for name, part in split.str[0].items() if part != "train"}
        assert volumes.index["z"].tolist() == list(range(nifti.shape[0])) * 4
        assert (main.index["seed"] == -1).all()
        seen.add(tuple(split.str[0]))
    assert len(seen) > 1


def test_subjects_that_become_test_subjects_late_are_read_again(cohort, tmp_path, nifti):
    """Whatever subject turns out to be unusable, volumes hold every slice of the final validation and test subjects."""
    for number in range(8):
        path = cohort / f"s{number}" / f"s{number}_t2.nii.gz"
        whole = path.read_bytes()
        os.truncate(path, 1000)
        result = run(cohort, tmp_path / "out")
        assert result.subjects == {"train": 5, "validation": 1, "test": 1}
        volumes = SliceSet.open(tmp_path / "out" / "volumes")
        assert Counter(volumes.index["split"]) == {"validation": nifti.shape[0], "test": nifti.shape[0]}
        for name in volumes.meta["spacing"]:
            images, labels = nifti.make_subject(int(name[1:]))
            found_images, found_labels, _ = slices_of(volumes, name)
            np.testing.assert_array_equal(found_images, framed(in_8_bit(images), 1).swapaxes(0, 1))
            np.testing.assert_array_equal(found_labels, framed(labels, 1))
        path.write_bytes(whole)


def test_a_split_file_is_followed(cohort, tmp_path):
    path = tmp_path / "split.csv"
    path.write_text(
        "subject,split\n" + "".join(f"s{n},{'test' if n < 3 else 'train'}\n" for n in range(8)) + "s9,test\n"
    )
    result = run(cohort, tmp_path / "out", split_file=path)
    assert result.subjects == {"test": 3, "train": 4, "validation": 1}
    assert result.warnings == [f"{path} names s9, which is not in the cohort"]
    opened = SliceSet.open(tmp_path / "out")
    assert set(opened.index["subject"][opened.rows("test")]) == {"s0", "s1", "s2"}
    path.write_text("subject,split\ns1,train\n")
    with pytest.raises(UserError, match="does not name 7 subject"):
        run(cohort, tmp_path / "out2", split_file=path)


# --- processes ---


def test_bytes_depend_on_neither_workers_nor_what_stood_there(cohort, tmp_path, nifti):
    images, labels = nifti.make_subject(50)
    nifti.save_brats(cohort, "s1_copy", *nifti.make_subject(1))
    nifti.save_brats(cohort, "s0_bad", images * 0, labels)
    progress = []
    run(cohort, tmp_path / "one", image_size=20, progress=lambda *told: progress.append(told))
    run(cohort, tmp_path / "three", image_size=16)
    run(cohort, tmp_path / "three", image_size=20, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert progress == [(done, 10, path.name) for done, path in enumerate(sorted(cohort.iterdir()), 1)]


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_reaches_its_total_where_annotations_cannot_be_read(cohort, tmp_path, workers):
    for name in ("s2", "s5"):
        (cohort / name / f"{name}_seg.nii.gz").write_bytes(b"no image")
    told = []
    run(cohort, tmp_path / "out", workers=workers, progress=lambda *one: told.append(one))
    names = ["s2", "s5", "s0", "s1", "s3", "s4", "s6", "s7"]
    assert told == [(done, 8, name) for done, name in enumerate(names, 1)]


def test_a_dead_worker_is_an_error_that_names_the_subject(cohort, tmp_path, nifti):
    def kill_all(*_):
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)

    # One that takes long enough to be still at it when the first is done.
    nifti.save_brats(cohort, "s1", *nifti.make_subject(1, (60, 300, 300)), spacing=(2.0, 1.0, 1.0))
    with pytest.raises(UserError, match=r"a worker process died while reading s1.*out of memory"):
        run(cohort, tmp_path / "out", workers=2, progress=kill_all)
    with pytest.raises(UserError, match="no complete slice set"):
        SliceSet.open(tmp_path / "out")


def test_a_broken_disk_is_no_fault_of_the_subject(cohort, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left") as error:
        run(cohort, tmp_path / "out")
    assert error.value.__notes__ == ["while reading subject s0"]
    assert list((tmp_path / "out").rglob("*.npy*")) == []


def test_hostile_names_go_through(tmp_path, nifti):
    names = ["Patient Äß 患者", '<img src=x onerror="alert(1)">', 'a,"b"\nc', "x; rm -rf *", "=1+1"]
    for number, name in enumerate(names):
        nifti.save_brats(tmp_path / "<b>& Köln", name, *nifti.make_subject(number))
    nifti.save_brats(tmp_path / "<b>& Köln", "z,\n", *nifti.make_subject(0))
    run(tmp_path / "<b>& Köln", tmp_path / "out dir", workers=2)
    opened = SliceSet.open(tmp_path / "out dir")
    assert opened.meta["cohort"] == "<b>& Köln"
    assert opened.meta["simulated"] is False
    assert len({*opened.index["subject"], *rejected(tmp_path / "out dir")} & {*names, "z,\n"}) == 6


def test_every_layout_prepares_the_same_slices(tmp_path, nifti):
    for number in range(3):
        content = nifti.make_subject(number)
        nifti.save_brats(tmp_path / "1" / "c", f"s{number}", *content, style="2023", et=3, axes="RAS")
        nifti.save_msd(tmp_path / "2" / "c", f"s{number}", *content, suffix=".nii")
        nifti.save_nnunet(tmp_path / "3" / "c", f"s{number}", *content, axes="ASL")
    prepared, conventions = [], []
    for n in "123":
        run(tmp_path / n / "c", tmp_path / n / "out")
        prepared.append(contents(tmp_path / n / "out"))
        for name in ("meta.json", "volumes/meta.json"):
            meta = json.loads(prepared[-1].pop(name))
            conventions.append(meta.pop("labels")["name"])
            prepared[-1][name] = meta
    assert conventions == ["brats2023"] * 2 + ["msd"] * 2 + ["dataset.json"] * 2
    first, *others = prepared
    assert all(other == first for other in others)
    assert nib.load(tmp_path / "2" / "c" / "imagesTr" / "s0.nii").ndim == 4
