import numpy as np
import pytest
from monai.metrics.regression import compute_ssim_and_cs
from scipy import stats

from analysis.neighbours import Plan, Rows, nearest


def moved(image: np.ndarray, down: int, right: int, margin: int) -> np.ndarray:
    """The image on a canvas with a black margin, moved by whole pixels."""
    canvas = np.zeros((image.shape[0], image.shape[1] + 2 * margin, image.shape[2] + 2 * margin), image.dtype)
    canvas[:, margin + down :][:, : image.shape[1], margin + right :][:, :, : image.shape[2]] = image
    return canvas


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Straight from the definition, in float64: two images [4, H, W], over the union of their brains."""
    brain_a, brain_b = (a > 10).any(0), (b > 10).any(0)
    union = brain_a | brain_b
    if not union.any():
        return 0.0
    a, b = (np.where(brain, image, 0.0)[:, union].ravel() for brain, image in ((brain_a, a), (brain_b, b)))
    return float(stats.pearsonr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MONAI's SSIM map, averaged over the union of the brains; images [4, H, W] with a black margin of 5 px."""
    import torch

    brain_a, brain_b = (a > 10).any(0), (b > 10).any(0)
    a, b = (torch.from_numpy(np.where(brain, image, 0.0))[None] for brain, image in ((brain_a, a), (brain_b, b)))
    value, _ = compute_ssim_and_cs(a, b, 2, kernel_size=(11, 11), kernel_sigma=(1.5, 1.5), data_range=255.0)
    return float(value[0].numpy()[:, (brain_a | brain_b)[5:-5, 5:-5]].mean())


def test_equals_a_double_loop(patients):
    queries, references = patients(2, 12, size=16)[0], patients(3, 40, size=16)[0]
    queries[0], queries[1] = references[17], references[5][..., ::-1]
    found = nearest(queries, references)
    for row, query in enumerate(queries):
        loop = [max(pearson(query, reference), pearson(query[..., ::-1], reference)) for reference in references]
        assert found["correlation"][row] == pytest.approx(max(loop), abs=1e-9)
    assert found["row"][0] == 17
    assert found["row"][1] == 5
    assert list(found["kind"][:2]) == ["pearson", "mirrored"]


def test_rescoring_equals_every_shift_and_ssim_by_hand(patients):
    queries, (references, subjects) = patients(4, 5, size=16)[0], patients(5, 3, 2, size=16)  # shifts up to 16 / 4 px
    queries[0] = moved(references[2], -2, 3, 4)[:, 4:-4, 4:-4]
    found = nearest(queries, references, subjects)
    lags = [(down, right) for down in range(-4, 5) for right in range(-4, 5)]
    for row, query in enumerate(queries):
        best = []
        for reference in references:
            pairs = [
                (moved(turned, 0, 0, 9), moved(reference, *lag, 9))
                for turned in (query, query[..., ::-1])
                for lag in lags
            ]
            correlations = [pearson(*pair) for pair in pairs]
            best.append(max(max(correlations), ssim(*pairs[int(np.argmax(correlations))])))
        winner = int(np.argmax(best))
        assert found["similarity"][row] == pytest.approx(best[winner], abs=1e-5)
        assert found["row"][row] == winner
        others = np.where(subjects == subjects[winner], -1, best)
        assert found["second_similarity"][row] == pytest.approx(others.max(), abs=1e-5)
        assert found["second_row"][row] == int(np.argmax(others))
    assert tuple(found.loc[0, ["row", "shift_y", "shift_x", "mirrored"]]) == (2, -2, 3, False)


def test_a_black_border_changes_nothing(patients):
    queries, references = patients(6, 6)[0], patients(7, 20)[0]
    padding = ((0, 0), (0, 0), (5, 9), (8, 8))
    plain, padded = nearest(queries, references), nearest(np.pad(queries, padding), np.pad(references, padding))
    assert plain.equals(padded)


def test_faint_background_changes_nothing(patients):
    queries, references = patients(6, 4)[0], patients(7, 8)[0]
    clean = np.where((queries > 10).any(1, keepdims=True), queries, 0)
    assert nearest(queries, references).equals(nearest(clean, references))


def test_memory_bound_sets_the_pieces_and_not_the_result(patients):
    queries, (references, subjects) = patients(8, 6, size=16)[0], patients(9, 206, 5, size=16)
    assert Plan.of(queries.shape[1:], 0.01).references < 600 < 1024 == Plan.of(queries.shape[1:], 2.0).references
    little, plenty = (nearest(queries, references, subjects, memory_gib=gib) for gib in (0.01, 2.0))
    measured = ["similarity", "second_similarity"]
    assert little.drop(columns=measured).equals(plenty.drop(columns=measured))
    assert little[measured].to_numpy() == pytest.approx(plenty[measured].to_numpy(), abs=1e-6)


@pytest.mark.parametrize("kept", [10, 170, 20_000])
@pytest.mark.parametrize("gib", [0.5, 2.0, 8.0])
def test_plan_stays_inside_the_bound(gib, kept):
    plan = Plan.of((4, 256, 256), gib, kept=kept)
    slice_bytes = 5 * 256 * 256 * 4  # four modalities and a mask
    held = (plan.queries + plan.references) * slice_bytes + plan.queries * (plan.references * 8 * 4 + kept * 2 * 20)
    assert 0.2 * gib * 2**30 < held < 0.9 * gib * 2**30


def test_reads_of_a_large_set_stay_inside_the_memory_bound(recorder):
    stored = np.random.default_rng(0).integers(0, 256, (16_000, 4, 16, 16), np.uint8).view(recorder)
    rows = np.arange(1, len(stored), 2)
    found = nearest(np.asarray(stored)[[9001, 77]], Rows(stored, rows), np.repeat(range(800), 10), memory_gib=0.005)
    assert list(rows[found["row"]]) == [9001, 77]
    assert stored.largest < 0.005 * 2**30 < rows.size * stored[0].nbytes


def test_rows_are_what_numpy_would_index():
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 6, 8), np.uint8)
    rows = Rows(images, np.array([7, 1, 2, 5]))
    assert np.array_equal(rows, images[[7, 1, 2, 5]])
    assert np.array_equal(rows[np.array([3, 0])], images[[5, 7]])
    part = rows[1:].cropped((slice(1, 4), slice(2, 8)))
    assert (len(part), part.shape) == (3, (3, 4, 3, 6))
    assert np.array_equal(part.cropped((slice(0, 2), slice(1, None)))[:2], images[[1, 2], :, 1:3, 3:8])


def test_too_little_memory_is_refused():
    with pytest.raises(ValueError, match="is too little for slices of 256×256"):
        Plan.of((4, 256, 256), 0.01)


def test_second_group_is_the_nearest_were_the_first_not_there(patients):
    (references, subjects), queries = patients(10, 5, 7), patients(11, 8)[0]
    queries[:3] = references[[0, 8, 33]]
    found = nearest(queries, references, subjects, k=3)  # far fewer than a subject has slices
    for row, query in enumerate(queries):
        others = np.flatnonzero(subjects != subjects[found["row"][row]])
        alone = nearest(query[None], references[others], k=3)
        assert found["second_row"][row] == others[alone["row"][0]]
        assert found["second_similarity"][row] == pytest.approx(alone["similarity"][0], abs=1e-6)
    assert found.drop(columns=["second_similarity", "second_row"]).equals(nearest(queries, references, k=3))


def test_a_second_group_may_be_a_single_slice(patients):
    references = patients(10, 6)[0]
    found = nearest(references[:2], references, np.repeat(["one", "other"], [5, 1]))
    assert list(found["row"]) == [0, 1]
    assert list(found["second_row"]) == [5, 5]


def test_one_group_has_no_second(patients):
    images = patients(10, 4)[0]
    with pytest.raises(ValueError, match="two groups"):
        nearest(images, images, np.zeros(4))


def test_empty_and_constant_slices(patients):
    queries, references = patients(11, 3)[0], patients(12, 5)[0]
    queries[0], references[0] = 0, 0  # nothing, and its exact copy
    queries[1], references[1] = 100, 100  # Pearson's correlation is undefined, the copy is found all the same
    found = nearest(queries, references)
    assert not found.isna().any().any()
    assert found["similarity"][0] == 0
    assert found["correlation"][:2].tolist() == [0, 0]
    assert found.loc[1, ["similarity", "row", "kind"]].tolist() == [pytest.approx(1), 1, "ssim"]


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros((2, 4, 16, 16), np.float32), "uint8"),
        (np.zeros((0, 4, 16, 16), np.uint8), "N ≥ 1"),
        (np.zeros((2, 4, 16, 20), np.uint8), "agree"),
    ],
)
def test_arrays_of_another_kind_are_refused(queries, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, np.zeros((2, 4, 16, 16), np.uint8))
