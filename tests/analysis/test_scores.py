from itertools import product

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score, precision_score, recall_score

from analysis.scores import METRICS, REGIONS, subject_scores

SPACING = (3.0, 1.0, 0.7)


def blobs(seed: int, shape=(9, 14, 12)) -> np.ndarray:
    """Smooth labels 0..3, each of them present."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return np.digitize(field, np.quantile(field, [0.6, 0.75, 0.9])).astype(np.uint8)


def table(prediction, reference, spacing=SPACING) -> dict[tuple[str, str], float]:
    scores = subject_scores(prediction, reference, spacing)
    return scores.set_index(["region", "metric"])["value"].to_dict()


def surface(mask: np.ndarray) -> np.ndarray:
    """Coordinates in mm of the voxels of a mask with one of their six neighbours outside it."""
    padded = np.pad(mask, 1)
    inside = np.ones_like(mask)
    for axis, step in product(range(3), (-1, 1)):
        inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(mask & ~inside) * SPACING


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_overlaps_equal_scikit_learn(seed):
    prediction, reference = blobs(seed), blobs(seed + 100)
    scores = table(prediction, reference)
    for region, labels in REGIONS.items():
        masks = np.isin(reference, labels).ravel(), np.isin(prediction, labels).ravel()
        for metric, function in (("dice", f1_score), ("precision", precision_score), ("recall", recall_score)):
            assert scores[region, metric] == pytest.approx(function(*masks))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_equal_brute_force_over_all_pairs_of_surface_voxels(seed):
    prediction, reference = blobs(seed), blobs(seed + 100)
    scores = table(prediction, reference)
    for region, labels in REGIONS.items():
        pairs = cdist(surface(np.isin(prediction, labels)), surface(np.isin(reference, labels)))
        there, back = pairs.min(1), pairs.min(0)
        assert scores[region, "hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
        assert scores[region, "asd"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)


def test_a_cube_moved_by_one_slice_is_one_slice_thickness_away():
    reference = np.zeros((10, 12, 12), np.uint8)
    reference[3:6, 4:8, 4:8] = 1
    scores = table(np.roll(reference, 1, 0), reference)
    assert scores["NCR", "dice"] == pytest.approx(2 / 3)
    assert scores["NCR", "hd95"] == pytest.approx(3.0)


def test_the_mean_is_over_the_three_classes():
    scores = table(blobs(3), blobs(4))
    assert scores["mean", "dice"] == pytest.approx(np.mean([scores[region, "dice"] for region in ("NCR", "ED", "ET")]))
    assert {metric for region, metric in scores if region == "mean"} == {"dice"}


@pytest.mark.parametrize(("predicted", "present"), list(product([False, True], repeat=2)))
@pytest.mark.parametrize("region", ["NCR", "ED", "ET"])
def test_the_empty_case_rule_class_by_class(region, predicted, present):
    """All four cases for each class, while the other classes are perfect."""
    label = REGIONS[region][0]
    full = np.repeat(np.arange(4, dtype=np.uint8), 4).reshape(4, 2, 2)
    prediction, reference = full.copy(), full.copy()
    prediction[(full == label) & (not predicted)] = 0
    reference[(full == label) & (not present)] = 0
    found = subject_scores(prediction, reference, SPACING).query("region == @region")
    diagonal = np.sqrt((4 * 3.0) ** 2 + (2 * 1.0) ** 2 + (2 * 0.7) ** 2)
    overlap, distance, case = {
        (True, True): (1.0, 0.0, "present"),
        (False, False): (1.0, 0.0, "both empty"),
        (True, False): (0.0, diagonal, "one empty"),
        (False, True): (0.0, diagonal, "one empty"),
    }[predicted, present]
    assert set(found["case"]) == {case}
    values = found.set_index("metric")["value"]
    assert values[["dice", "precision", "recall"]].tolist() == [overlap] * 3
    assert values[["hd95", "asd"]].tolist() == pytest.approx([distance] * 2)


def test_two_empty_volumes_agree_everywhere():
    scores = subject_scores(np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 5), np.uint8), SPACING)
    assert len(scores) == len(REGIONS) * len(METRICS) + 1
    assert not scores["value"].isna().any()
    assert set(scores.loc[scores["metric"].isin(["hd95", "asd"]), "value"]) == {0.0}
    assert set(scores.loc[~scores["metric"].isin(["hd95", "asd"]), "value"]) == {1.0}


def test_black_margins_change_nothing_but_the_diagonal():
    prediction, reference = blobs(5), blobs(6)
    padded = [np.pad(volume, ((2, 3), (1, 4), (5, 0))) for volume in (prediction, reference)]
    assert table(*padded) == pytest.approx(table(prediction, reference))


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "message"),
    [
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), SPACING, "one shape"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), SPACING, "volumes"),
        (np.full((2, 2, 2), 4), np.zeros((2, 2, 2), int), SPACING, r"prediction must hold labels 0\.\.3, got \[4\]"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2), int), SPACING, "integer labels"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1.0, 0.0, 1.0), "spacing"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1.0, np.nan, 1.0), "spacing"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1.0, 1.0), "spacing"),
    ],
)
def test_what_cannot_be_scored_is_refused(prediction, reference, spacing, message):
    with pytest.raises(ValueError, match=message):
        subject_scores(prediction, reference, spacing)
