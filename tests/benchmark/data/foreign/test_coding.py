"""What the values of an annotation are taken for."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmark.data.foreign import detect, importing
from benchmark.data.foreign.coding import TIMES_51, TIMES_51_2023, Values
from benchmark.data.slicing import Frame

BRATS = np.array([0, 1, 2, 4], np.uint8)  # of classes 0–3


def test_values_between_the_codes_are_decoded_by_the_studys_thresholds(sets, tmp_path):
    """v = 5 g / 255: above 3.0 ET, 1.5 ED, 0.5 NCR; off code is v farther than 0.25 from 0, 1, 2 and 4."""
    images, _ = sets.make_set(2)
    g = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, 1, 1))
    g[0] = np.array([0, 51, 102, 204, 55], np.uint8)[g[0] % 5]
    g[1][(g[1] > 115) & (g[1] < 190)] = 110  # so that most of what is annotated is a code
    opened = sets.run(sets.save_folders(tmp_path / "sent", images, g), tmp_path / "out")
    v = 5 * g.astype(float) / 255
    np.testing.assert_array_equal(opened.labels, np.select([v > 3, v > 1.5, v > 0.5], [3, 2, 1], 0))
    off = np.min([np.abs(v - code) for code in (0, 1, 2, 4)], axis=0) > 0.25
    np.testing.assert_allclose(opened.index["off_code"], off.mean((1, 2)))
    assert opened.index["off_code"][0] == 0 < opened.index["off_code"][1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 2, 7), "annotation value 7"),
        ((0, 1, 3, 4), "both there"),
        ((0, 1, 102, 204), "both codings"),
        ((0, 85, 170, 255), "annotation value 85"),
        ((0, 255, 255, 255), "a mask of one class"),
    ],
)
@pytest.mark.parametrize("arrays", [False, True])
def test_annotations_that_decode_to_nothing_are_refused(sets, tmp_path, values, message, arrays):
    images, labels = sets.make_set(3)
    annotation = np.array(values, np.uint8)[labels]
    if arrays:
        (tmp_path / "sent").mkdir()
        np.save(tmp_path / "sent" / "images.npy", images)
        np.save(tmp_path / "sent" / "labels.npy", annotation)
        where = "labels.npy, slice 0"
    else:
        sets.save_folders(tmp_path / "sent", images, annotation)
        where = "SEG/slice_000.png"
    text = sets.refused(tmp_path / "sent", tmp_path / "out")
    assert message in text
    assert where in text


# --- × 51, and whether 153 or 204 is ET ---


def save(sets, folder, annotation):
    """Images beside an annotation uint8 [N, 16, 16]."""
    images, _ = sets.make_set(len(annotation))
    return sets.save_arrays(folder, images=images, labels=annotation)


@pytest.mark.parametrize("shift", [0, 1, -1])
def test_153_without_204_is_et_as_from_2023_on(sets, tmp_path, shift):
    """Also where scaling there and back has rounded."""
    _, labels = sets.make_set(3)
    codes = np.array([0, 51 + shift, 102, 153 + shift], np.uint8)
    opened = sets.run(save(sets, tmp_path / "sent", codes[labels]), tmp_path / "out")
    np.testing.assert_array_equal(opened.labels, labels)
    assert opened.meta["annotation"] == "BraTS 2023 values × 51 (153 is ET), decoded by thresholds"
    assert opened.index["off_code"].eq(0).all()


@pytest.mark.parametrize("count", [1, 100])
def test_153_beside_204_is_refused(sets, tmp_path, count):
    annotation = 51 * BRATS[sets.make_set(3)[1]]
    annotation[0, :, 0][:1] = 153
    annotation[1].flat[:count] = 153
    text = sets.refused(save(sets, tmp_path / "sent", annotation), tmp_path / "out")
    assert "annotation value 153" in text
    assert "annotation value 204" in text
    assert "only one of them can be ET" in text


def tumours(codes: tuple, noise: float, blur: float, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Discs of three shells in 48 px as a generator draws them: annotation uint8 and classes, [N, 48, 48]."""
    rng, (y, x) = np.random.default_rng(0), np.indices((48, 48))
    classes = []
    for _ in range(count):
        radius, (row, column) = rng.uniform(8, 16), rng.uniform(18, 30, 2)
        distance = np.hypot(y - row, x - column) / radius
        classes.append(np.select([distance < 0.4, distance < 0.65, distance < 1], [1, 3, 2], 0))
    values = gaussian_filter(np.array(codes, float)[np.array(classes)], (0, blur, blur))
    return np.clip(np.rint(values + rng.normal(0, noise, values.shape)), 0, 255).astype(np.uint8), np.array(classes)


def coding_of(annotation: np.ndarray):
    values = Values()
    values.add("SEG/0001.png", np.bincount(annotation.ravel(), minlength=256))
    return values.coding()


@pytest.mark.parametrize("noise", [1, 4, 8])
@pytest.mark.parametrize("blur", [0, 0.5])
@pytest.mark.parametrize(("codes", "expected"), [((0, 51, 102, 204), TIMES_51), ((0, 51, 102, 153), TIMES_51_2023)])
def test_a_generators_noise_does_not_hide_which_is_et(codes, expected, noise, blur):
    annotation, classes = tumours(codes, noise, blur)
    coding, problems = coding_of(annotation)
    assert problems == []
    assert coding is expected
    et = classes == 3
    assert (coding.class_of[annotation[et]] == 3).mean() > 0.8
    assert (coding.class_of[annotation] == 3).sum() < 1.3 * et.sum()


@pytest.mark.parametrize("noise", [1, 4, 8, 12, 16])
@pytest.mark.parametrize("blur", [0, 0.5, 1, 1.5])
@pytest.mark.parametrize("top", [204, 153])
def test_noise_and_blur_never_turn_one_code_into_the_other(top, noise, blur):
    """Where they hide which it is, that is said."""
    coding, problems = coding_of(tumours((0, 51, 102, top), noise, blur)[0])
    assert problems or coding is {204: TIMES_51, 153: TIMES_51_2023}[top]


def test_heaps_at_both_are_refused():
    annotation = np.concatenate([tumours((0, 51, 102, top), 4, 0)[0] for top in (153, 204)])
    assert "only one of them can be ET" in coding_of(annotation)[1][0]


@pytest.mark.parametrize("codes", [(0, 85, 170, 255), (0, 127, 255, 255), (0, 255, 255, 255), (0, 64, 128, 192)])
@pytest.mark.parametrize("noise", [0, 4])
def test_other_multiples_are_refused(codes, noise):
    assert coding_of(tumours(codes, noise, 0)[0])[1]


# --- labels as they are ---


@pytest.mark.parametrize("kind", ["i1", "u1", "<i2", ">i2", "<u4", "i8", "f2", "f4", ">f8"])
def test_labels_may_be_whole_numbers_of_any_type(sets, tmp_path, kind):
    images, labels = sets.make_set(3)
    folder = sets.save_arrays(tmp_path / "sent", images=images, labels=BRATS[labels].astype(kind))
    sets.assert_holds(sets.run(folder, tmp_path / "out"), images, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels / 4, "value 0.25 is no whole number"),
        (lambda labels: labels.astype(float) - 1, "values -1.0 … 3.0; whole numbers in 0 … 255"),
        (lambda labels: labels.astype(int) - 2, "values -2 … 2"),
        (lambda labels: 100 * labels.astype(int), "values 0 … 400"),
        (lambda labels: np.where(labels == 4, np.nan, labels), "values nan … nan"),
        (lambda labels: np.moveaxis(np.eye(4)[labels.clip(0, 3)], 3, 1), "one value a pixel is needed, not a channel"),
        (lambda labels: np.eye(4, dtype=bool)[labels.clip(0, 3)], "one value a pixel is needed, not a channel"),
        (lambda labels: labels > 0, "values are bool"),
        (lambda labels: 255 * (labels > 0).astype(np.uint8), "a mask of one class"),
        (lambda labels: 5 * labels, "annotation value 5"),
    ],
)
def test_labels_that_are_no_classes_are_refused(sets, tmp_path, change, message):
    images, labels = sets.make_set(3)
    folder = sets.save_arrays(tmp_path / "sent", images=images, labels=change(BRATS[labels]))
    assert message in sets.refused(folder, tmp_path / "out")


def test_a_key_says_what_values_mean_that_do_not_say_it(sets, tmp_path):
    images, labels = sets.make_set(3)
    folder = sets.save_arrays(tmp_path / "sent", images=images, labels=np.array([0, 4, 1, 3], np.uint8)[labels])
    assert "import_samples.set_labels=1:NCR" in sets.refused(folder, tmp_path / "out")
    opened = sets.run(folder, tmp_path / "out", set_labels="4:NCR,1:ED,3:ET")
    sets.assert_holds(opened, images, labels)
    assert opened.meta["annotation"] == "values as 4:NCR,1:ED,3:ET"
    text = sets.refused(folder, tmp_path / "more", set_labels="1:ED,3:ET")
    assert "import_samples.set_labels=" in text


@pytest.mark.parametrize(
    ("values", "absent"),
    [
        ((0, 1, 2, 4), []),
        ((0, 1, 1, 1), ["ED", "ET"]),
        ((0, 0, 2, 4), ["NCR"]),
        ((0, 51, 102, 102), ["ET"]),
        ((0, 0, 0, 0), []),  # no tumour at all is said in other words
    ],
)
def test_classes_that_are_nowhere_are_told(sets, tmp_path, values, absent):
    _, labels = sets.make_set(3)
    found = detect.find(save(sets, tmp_path / "sent", np.array(values, np.uint8)[labels]))
    coding = importing.check(found, 16, 1, lambda _: None)
    imported = importing.write(
        found, coding, tmp_path / "out", sets.META, frame=Frame(16), workers=1, progress=lambda _: None
    )
    assert imported.absent == absent
