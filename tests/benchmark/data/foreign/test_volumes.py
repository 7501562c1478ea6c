"""Volumes take the road of real subjects."""

import shutil

import numpy as np
import pytest

from benchmark.data import cohorts
from benchmark.data.foreign import detect, importing
from benchmark.data.preparation import prepare
from benchmark.data.slices import SliceSet
from benchmark.data.slicing import Frame

BRATS_2020 = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
BRATS_2023 = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")


def test_volumes_are_framed_as_the_cohort_is(tmp_path, nifti):
    for n in range(3):
        nifti.save_brats(tmp_path / "sent", f"s{n}", *nifti.make_subject(n))
    prepare(cohorts.find(tmp_path / "sent"), tmp_path / "real", image_size=16, field_of_view=200)
    found = detect.find(tmp_path / "sent")
    coding = importing.check(found, 16, 1, lambda _: None)
    told = {"meta": {"kind": "synthetic", "cohort": "c", "simulated": True, "spacing": {}}, "progress": lambda _: None}
    importing.write(found, coding, tmp_path / "out", frame=Frame(16, 200), workers=1, **told)
    real, sent = SliceSet.open(tmp_path / "real"), SliceSet.open(tmp_path / "out")
    order = real.index.sort_values(["subject", "z"]).index
    assert len(order) > 3
    np.testing.assert_array_equal(sent.images, real.images[order])
    np.testing.assert_array_equal(sent.labels, real.labels[order])


def test_volumes_give_their_slices_with_enough_brain(sets, tmp_path, nifti):
    """The field of view is 26 of the volume's pixels wide: padded by one, nothing is resized."""
    content = {f"s{n}": nifti.make_subject(n) for n in range(2)}
    for name, (images, labels) in content.items():
        nifti.save_brats(tmp_path / "sent", name, images, labels)
    twin = tmp_path / "sent" / "s2"  # a generator that gives the same twice is not helped by hiding it
    for path in shutil.copytree(tmp_path / "sent" / "s0", twin).iterdir():
        path.rename(twin / path.name.replace("s0", "s2"))
    nifti.save_brats(tmp_path / "sent", "s3", 0 * content["s0"][0], content["s0"][1])
    nifti.save_brats(tmp_path / "sent", "s4", *content["s0"])
    (tmp_path / "sent" / "s4" / "s4_flair.nii.gz").unlink()

    opened = sets.run(tmp_path / "sent", tmp_path / "out", image_size=26, workers=1)
    expected_images, expected_labels, subjects, z = [], [], [], []
    for name in ("s0", "s1", "s2"):
        images, labels = content[name.replace("s2", "s0")]
        images = np.rint(images * 255.0 / images.max((1, 2, 3), keepdims=True)).astype(np.uint8)
        pad = [(0, 0)] * 2 + [(1, 1)] * 2
        kept = [n for n in range(len(labels)) if (images[0, n] > 50).sum() > 0.15 * 26 * 26]
        expected_images.append(np.pad(images, pad)[:, kept].swapaxes(0, 1))
        expected_labels.append(np.pad(labels, pad[1:])[kept])
        subjects += [name] * len(kept)
        z += kept
    assert 0 < len(z) < 30
    sets.assert_holds(opened, np.concatenate(expected_images), np.concatenate(expected_labels))
    assert opened.index["subject"].tolist() == subjects
    assert opened.index["z"].tolist() == z
    assert opened.meta["format"] == "NIfTI volumes"
    reasons = {name: reason for name, _, reason in sets.rejected(tmp_path / "out")}
    assert reasons == {"s3": "T1 is nowhere above zero: there is no brain in it", "s4": "FLAIR is missing"}
    assert not list((tmp_path / "out").glob("subjects*"))


@pytest.mark.parametrize(
    ("values", "endings", "set_labels", "coding"),
    [
        ((1, 2, 4), BRATS_2020, "auto", "BraTS values (brats2020)"),
        ((1, 2, 3), BRATS_2020, "auto", "BraTS values (brats2023)"),
        ((1, 2, 3), BRATS_2023, "auto", "BraTS values (brats2023)"),
        ((2, 1, 3), BRATS_2020, "msd", "BraTS values (msd)"),
        ((51, 102, 204), BRATS_2020, "51:NCR,102:ED,204:ET", "BraTS values (mapping)"),
    ],
)
def test_classes_of_volumes_are_those_of_their_convention(sets, nifti, tmp_path, values, endings, set_labels, coding):
    ncr, ed, et = values
    for seed in range(2):
        nifti.write_subject(tmp_path / "sent", f"s{seed}", endings, seed, ncr=ncr, ed=ed, et=et)
    opened = sets.run(tmp_path / "sent", tmp_path / "out", image_size=48, workers=1, set_labels=set_labels)
    assert opened.meta["annotation"] == coding
    for seed in range(2):
        labels = nifti.brain_with_tumour(seed)[1]
        rows = opened.index["subject"] == f"s{seed}"
        counts = np.bincount(opened.labels[rows].ravel(), minlength=4)[1:]
        whole = np.array([(labels == value).sum() for value in (1, 2, 4)])
        assert (np.abs(counts - whole * (48 / 51.2) ** 2) < 0.2 * whole + 5).all()  # resized a little


def test_volumes_of_minus_one_to_one_are_set_aside_with_what_to_do(sets, nifti, tmp_path):
    for seed in range(2):
        paths = nifti.write_subject(tmp_path / "sent", f"s{seed}", seed=seed)
        for path, image in zip(paths, nifti.brain_with_tumour(seed)[0], strict=False):
            nifti.save_array(np.float32(image / image.max() * 2 - 1), path)
    text = sets.refused(tmp_path / "sent", tmp_path / "out", image_size=48, workers=1)
    assert "nothing usable is left of 2" in text
    assert "below 0" in text or "negative" in text
    nifti.write_subject(tmp_path / "sent", "good", seed=7)
    opened = sets.run(tmp_path / "sent", tmp_path / "out", image_size=48, workers=1)
    assert set(opened.index["subject"]) == {"good"}
    assert {name for name, *_ in sets.rejected(tmp_path / "out")} == {"s0", "s1"}


def test_what_volumes_do_not_say_is_asked_under_the_sets_key(sets, nifti, tmp_path):
    for seed in range(4):
        nifti.write_subject(tmp_path / "sent", f"s{seed}", seed=seed, et=3 + seed % 2)
    text = sets.refused(tmp_path / "sent", tmp_path / "out", image_size=48, workers=1)
    assert "only one of them can be ET" in text
    assert "import_samples.set_labels=brats2015" in text


def test_volumes_are_turned_as_their_affine_says(sets, nifti, tmp_path):
    """The same subject stored in LPS and, flipped along all axes, in RAI."""
    nifti.write_subject(tmp_path / "one", "s", seed=0)
    images, labels = nifti.brain_with_tumour(0)
    affine = nifti.affine.copy()
    affine[:3, :3] *= -1
    affine[:3, 3] += nifti.affine[:3, :3] @ [47, 47, 31]
    for (path, array), other in zip(
        zip(sorted((tmp_path / "one").glob("*_*")), [images[3], labels, images[0], images[1], images[2]], strict=True),
        ["s_flair", "s_seg", "s_t1", "s_t1ce", "s_t2"],
        strict=True,
    ):
        assert path.name.startswith(other)
        nifti.save_array(array[::-1, ::-1, ::-1], tmp_path / "two" / f"{other}.nii.gz", affine)
    one, two = (
        sets.run(tmp_path / name, tmp_path / f"out {name}", image_size=48, workers=1) for name in ("one", "two")
    )
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.labels.any()
