"""What the values of an annotation are taken for."""

import numpy as np
import pytest

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
        ((0, 85, 170, 255), "far from every code"),  # × 85
        ((0, 255, 255, 255), "far from every code"),  # a mask
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
