import numpy as np
import pytest
from scipy import ndimage

from analysis.planted import plant


@pytest.fixture(scope="module")
def planted(patients):
    images, subjects = patients(40, 6, 2)
    labels = np.zeros((12, 1, 32, 32), np.uint8)
    labels[:, 0, 10:15, 12:18] = 2
    labels[3] = 0
    rows, strangers = np.array([1, 3, 8]), patients(41, 3)[0]
    return images, labels, subjects, rows, strangers, plant(
        images, labels, subjects, rows, strangers, np.random.default_rng(0)
    )  # fmt: skip


def test_copies_by_hand(planted):
    images, labels, subjects, rows, strangers, copies = planted
    originals = images[rows]
    assert np.array_equal(copies["exact"].images, originals)
    assert np.array_equal(copies["mirrored"].images[..., ::-1], originals)
    assert np.array_equal(copies["mirrored"].labels[..., ::-1], labels[rows])
    assert np.array_equal(copies["shifted 4 px"].images[..., 4:], originals[..., :-4])
    assert np.array_equal(copies["modalities swapped"].images[:, 3], originals[:, 0])
    half = copies["half, the rest a stranger's"].images
    assert np.array_equal(half[..., :16], originals[..., :16])
    assert np.array_equal(half[..., 16:], strangers[..., 16:])
    one = copies["one modality, the rest a stranger's"].images
    assert np.array_equal(one[:, 3], originals[:, 3])
    assert np.array_equal(one[:, :3], strangers[:, :3])
    quarter = copies["quarter, the rest a stranger's"].images
    assert np.array_equal(quarter[..., :16, :16], originals[..., :16, :16])
    assert np.array_equal(quarter[..., 16:, :], strangers[..., 16:, :])
    assert np.array_equal(quarter[..., :16, 16:], strangers[..., :16, 16:])
    apart = copies["modalities moved apart"].images  # right, down, left, up by 2 of 32 px
    assert np.array_equal(apart[:, 0, :, 2:], originals[:, 0, :, :-2])
    assert np.array_equal(apart[:, 1, 2:], originals[:, 1, :-2])
    assert np.array_equal(apart[:, 2, :, :-2], originals[:, 2, :, 2:])
    assert np.array_equal(apart[:, 3, :-2], originals[:, 3, 2:])
    halves = copies["halves of two patients"]
    assert np.array_equal(halves.images[..., :16], originals[..., :16])
    assert np.array_equal(halves.images[..., 16:], images[halves.rows[:, 1]][..., 16:])
    mean = copies["mean of two patients"]
    assert (subjects[mean.rows[:, 0]] != subjects[mean.rows[:, 1]]).all()
    assert mean.images == pytest.approx(images[mean.rows].mean(1), abs=0.51)


def test_a_turn_is_scipy_s_and_takes_the_annotation_along(planted):
    images, labels, _, rows, _, copies = planted
    turned = copies["turned 10°"]
    for number, row in enumerate(rows):
        either = [
            ndimage.rotate(images[row].astype(float), degrees, (1, 2), reshape=False, order=1) for degrees in (10, -10)
        ]
        assert min(np.abs(turned.images[number] - each).mean() for each in either) < 0.5
        assert (turned.labels[number] > 0).sum() == pytest.approx((labels[row] > 0).sum(), abs=8)


def test_a_pasted_tumour_is_the_patient_s_in_a_stranger_s_brain(planted):
    images, labels, _, _, strangers, copies = planted
    pasted = copies["tumour in another brain"]
    assert pasted.rows[:, 0].tolist() == [1, 8]  # the slice without tumour has none to give
    inside = labels[[1, 8], 0][:, None] > 0
    assert np.abs(np.where(inside, pasted.images - images[[1, 8]].astype(float), 0)).max() <= 1
    assert np.array_equal(pasted.images[..., 24:], strangers[[0, 2]][..., 24:])
    unlabelled = copies["tumour in another brain, not annotated"]
    assert np.array_equal(unlabelled.images, pasted.images)
    assert not unlabelled.labels.any()


def test_what_cannot_be_planted_is_left_out(patients):
    images, subjects = patients(40, 1, 2)
    copies = plant(images, None, subjects, np.array([0]), patients(41, 1)[0], np.random.default_rng(0))
    left_out = {"mean of two patients", "halves of two patients", "tumour in another brain"}
    assert not left_out & set(copies)
