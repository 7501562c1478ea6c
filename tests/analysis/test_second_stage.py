import numpy as np
import pandas as pd
import pytest
import torch
from scipy import linalg, ndimage

from analysis import alignment
from analysis.alignment import ANGLES, Framed, Poses, best_rows, turned
from analysis.blends import RIDGE, Blends
from analysis.mixtures import Mixtures
from analysis.second_stage import Combined, SecondStage, evidence
from analysis.shares import threshold
from analysis.single_modalities import SingleModalities
from analysis.tumours import SIGMA, Tumours

CPU = torch.device("cpu")


class TestAlignment:
    def test_all_turns_and_mirrors_by_brute_force(self):
        rng = np.random.default_rng(0)
        a, b = (rng.normal(size=(n, 2, 3, ANGLES)) for n in (2, 3))
        a, b = (x / np.linalg.norm(x, axis=(2, 3), keepdims=True) for x in (a, b))
        spectra = [torch.fft.rfft(torch.from_numpy(x), dim=3).permute(1, 3, 0, 2) for x in (a, b)]
        likeness, angle, flip = (found.numpy() for found in turned(*spectra))
        for i, query in enumerate(a):
            # Mirrored left-right, what lay at an angle lies at pi minus it.
            mirrored = query[..., (ANGLES // 2 - np.arange(ANGLES)) % ANGLES]
            for j, reference in enumerate(b):
                all_turns = [
                    [np.abs((np.roll(y, -s, 2) * reference).sum((1, 2))).mean() for s in range(ANGLES)]
                    for y in (query, mirrored)
                ]
                assert likeness[i, j] == pytest.approx(np.max(all_turns))
                way, shift = np.unravel_index(np.argmax(all_turns), (2, ANGLES))
                assert (flip[i, j], angle[i, j]) == (way, pytest.approx(shift * 2 * np.pi / ANGLES))

    def test_a_frame_is_centred_on_its_mask_and_as_wide_as_it_needs(self):
        y, x = np.mgrid[:64, :64]
        mask = torch.from_numpy(np.float32((x - 40) ** 2 + (y - 20) ** 2 < 10.2**2))[None, None]
        values = torch.from_numpy(np.float32(x))[None, None]
        framed = Framed.of(values, mask)
        centre = [(2 * c + 1) / 64 - 1 for c in (40, 20)]
        assert framed.frame[0, :2].tolist() == pytest.approx(centre, abs=1e-5)
        assert framed.frame[0, 2].item() == pytest.approx(alignment.REACH * 10.2 * 2 / 64, rel=0.02)
        assert framed.values.numpy() == pytest.approx(np.where(mask, x - 40.0, 0), abs=1e-4)

    def test_the_best_row_of_each_of_the_best_subjects(self):
        likeness = torch.tensor([[0.1, 0.9, 0.8, 0.3, 0.7]])
        assert best_rows(likeness, torch.tensor([0, 1, 1, 0, 2]), 2).tolist() == [[1, 4]]

    def test_known_poses_are_undone(self, patients):
        images, strangers = patients(50, 30, size=48)[0], patients(51, 20, size=48)[0]
        search = Poses(images, np.arange(30), None, alignment.brains, CPU)
        where = np.mgrid[:48, :48] - 23.5
        copies = []
        for number, image in enumerate(images[:12]):
            angle, mirror = np.deg2rad(25 * (-1) ** number), (-1) ** (number // 2)
            matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            points = (
                np.tensordot(matrix @ np.diag([1.1, mirror * 0.95]), where, 1) + 23.5 + np.array([3, -4])[:, None, None]
            )
            copies.append(255 - np.stack([ndimage.map_coordinates(c.astype(float), points, order=1) for c in image]))
            copies[-1][:, copies[-1].min(0) > 245] = 0  # contrast is inverted, and the background black again
        (likeness, rows), _ = search.nearest(np.array(copies).astype(np.uint8), None, bend=True)
        best = likeness.argmax(1)
        assert rows[torch.arange(12), best].tolist() == list(range(12))
        (other, _), _ = search.nearest(strangers, None, bend=True)
        assert likeness.amax(1).min() > other.amax(1).max()

    def test_a_deformation_is_undone_by_bending_alone(self, patients):
        images = patients(52, 12, size=48)[0]
        rng = np.random.default_rng(1)
        flow = ndimage.gaussian_filter(rng.normal(size=(2, 48, 48)), (0, 6, 6))
        flow *= 2 / np.sqrt((flow**2).sum(0).mean())
        bent = [
            [ndimage.map_coordinates(channel.astype(float), np.mgrid[:48, :48] + flow, order=1) for channel in image]
            for image in images
        ]
        search = Poses(images, np.arange(12), None, alignment.brains, CPU)
        (straight, _), (curved, rows) = search.nearest(np.array(bent).astype(np.uint8), None, bend=True)
        own = rows[torch.arange(12), curved.argmax(1)]
        assert (own.numpy() == np.arange(12)).mean() > 0.9
        assert curved.amax(1).mean() > straight.amax(1).mean() + 0.05


@pytest.fixture(scope="module")
def cohort(patients):
    return patients(53, 14, 2)[0], np.repeat(np.arange(14), 2), patients(54, 6)[0]


class TestMixtures:
    def test_pairs_are_least_squares_on_all_pairs(self, cohort):
        images, codes, others = cohort
        queries = np.concatenate([((images[[0, 4]].astype(int) + images[[9, 20]]) // 2).astype(np.uint8), others[:2]])
        likeness, rows = Mixtures(images, codes, CPU).nearest(queries)["pair"]

        def vectors(images):
            inside = np.where((images > 10).any(1, keepdims=True), images, 0).astype(float)
            small = inside.reshape(len(images), 4, 16, 2, 16, 2).mean((3, 5)).reshape(len(images), -1)
            return small - small.mean(1, keepdims=True)

        references = vectors(images)
        for number, query in enumerate(queries):
            found = {}
            for way in (query, query[..., ::-1]):
                y = vectors(way[None])[0]
                r = references @ y / np.linalg.norm(references, axis=1)
                best = [max(np.flatnonzero(codes == code), key=lambda row: r[row]) for code in range(14)]
                explained = {}
                for i in best:
                    for j in best:
                        design = references[[i, j]].T
                        rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
                        explained[codes[i], codes[j]] = 1 - rest @ rest / (y @ y)
                first = max(explained, key=explained.get)
                apart = {pair: value for pair, value in explained.items() if not set(pair) & set(first)}
                found[explained[first]] = max(apart.values()), first
            second, subjects = found[max(found)]
            assert likeness[number].tolist() == pytest.approx([max(found), second], abs=1e-4)
            assert codes[rows[number]] in subjects

    def test_parts_of_several_patients_do_not_hide_each_other(self, cohort):
        images, codes, others = cohort
        search = Mixtures(images, codes, CPU)
        strangers = evidence(search.nearest(others)["half"][0]).max()
        left, right = np.array([1, 5, 8, 12]), np.array([17, 26, 20, 3])
        assert not set(codes[left]) & set(codes[right])
        halves = np.concatenate([images[left][..., :16], images[right][..., 16:]], 3)
        quarter = others[:4].copy()
        quarter[..., 16:, 16:] = images[left][..., 16:, 16:]
        for mixed, patients in ((halves, (left, right)), (quarter, (left,))):
            likeness, rows = search.nearest(mixed)["half"]
            assert evidence(likeness).min() > strangers
            assert all(codes[row] in {codes[part[n]] for part in patients} for n, row in enumerate(rows))

    def test_halves_and_swapped_modalities_are_found(self, cohort):
        images, codes, others = cohort
        originals = np.array([1, 5, 8, 12, 17, 26])
        search = Mixtures(images, codes, CPU)
        half = np.concatenate([images[originals][..., :16], others[..., 16:]], 3)
        likeness, rows = search.nearest(half)["half"]
        assert (rows.numpy() == originals).all()
        swapped, rows = search.nearest(images[originals][:, [2, 0, 3, 1], :, ::-1])["swap"]
        assert (rows.numpy() == originals).all()
        assert swapped[:, 0].tolist() == pytest.approx(np.ones(6), abs=1e-4)
        strangers = search.nearest(others)
        assert likeness[:, 0].min() > strangers["half"][0][:, 0].max()


class TestSingleModalities:
    def test_one_modality_in_a_stranger_s_slice_however_it_lies(self, cohort):
        images, codes, others = cohort
        queries, planted = others[:4].copy(), [3, 8, 17, 26]
        ways = (np.asarray, np.rot90, np.fliplr, lambda picture: ndimage.shift(picture, (2, -3), order=0))
        for modality, (row, way) in enumerate(zip(planted, ways, strict=True)):
            queries[modality, modality] = way(images[row, modality])
        search = SingleModalities(images, codes, CPU)
        likeness, rows = search.nearest(queries)
        assert codes[rows].tolist() == codes[planted].tolist()
        assert likeness[:, 0].min() > 0.9
        assert evidence(likeness).min() > evidence(search.nearest(others)[0]).max()

    def test_modalities_moved_apart_do_not_hide_each_other(self, cohort):
        images, codes, others = cohort
        originals = np.array([1, 5, 8, 12, 17, 26])
        steps = [(3, 0), (-3, 0), (0, 3), (0, -3)]
        apart = np.stack([ndimage.shift(images[originals, m], (0, *step), order=0) for m, step in enumerate(steps)], 1)
        search = SingleModalities(images, codes, CPU)
        likeness, rows = search.nearest(apart)
        assert codes[rows].tolist() == codes[originals].tolist()
        assert evidence(likeness).min() > evidence(search.nearest(others)[0]).max()


class TestBlends:
    def test_whitening_is_the_inverse_root_of_the_covariance(self, cohort):
        images, codes, others = cohort

        def vectors(images):
            inside = np.where((images > 10).any(1, keepdims=True), images, 0).astype(float)
            return inside.reshape(len(images), 4, 16, 2, 16, 2).mean((3, 5)).reshape(len(images), -1)

        references, mean = vectors(images), vectors(images).mean(0)
        covariance = np.cov(references.T, bias=True)
        ridge = RIDGE * np.trace(covariance) / len(covariance)
        whitening = np.linalg.inv(linalg.sqrtm(covariance + ridge * np.eye(len(covariance))).real)

        def cosines(images):
            a, b = ((x - mean) @ whitening for x in (vectors(images), references))
            return a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)

        expected = np.maximum(cosines(others), cosines(others[..., ::-1]))
        by_subject = np.sort(expected.reshape(len(others), 14, 2).max(2), 1)
        likeness, rows = Blends(images, codes, CPU).nearest(others)
        assert likeness.numpy() == pytest.approx(by_subject[:, :-3:-1], abs=1e-3)
        assert rows.tolist() == expected.argmax(1).tolist()

    def test_patients_shine_through_a_mean_of_three(self, cohort):
        images, codes, others = cohort
        three = np.stack([images[[1, 9, 16, 24]], others[:4], others[[4, 5, 0, 1]]]).mean(0).astype(np.uint8)
        search = Blends(images, codes, CPU)
        likeness, rows = search.nearest(three)
        assert codes[rows].tolist() == codes[[1, 9, 16, 24]].tolist()
        assert evidence(likeness).min() > evidence(search.nearest(others)[0]).max()

    def test_slices_that_are_all_alike_are_no_division_by_zero(self, cohort):
        images = np.repeat(cohort[0][:1], 4, 0)
        likeness, _ = Blends(images, np.array([0, 0, 1, 1]), CPU).nearest(images)
        assert torch.isfinite(evidence(likeness)).all()


class TestTumours:
    @pytest.fixture
    def labels(self):
        labels = np.zeros((28, 1, 32, 32), np.uint8)
        for number, label in enumerate(labels[:, 0]):
            label[10 : 17 + number % 3, 9 + number % 4 : 17] = 1
        return labels

    def test_a_tumour_is_found_in_a_stranger_s_brain_without_annotation(self, cohort, labels):
        images, codes, others = cohort
        originals = np.array([1, 8, 17, 26])
        pasted = np.where(
            ndimage.binary_dilation(labels[originals] > 0, np.ones((1, 1, 3, 3))), images[originals], others[:4]
        )
        search = Tumours(images, codes, labels, CPU)
        for queries in (pasted, pasted[..., ::-1].copy()):
            likeness, rows = search.nearest(queries)
            assert rows.tolist() == originals.tolist()
            assert evidence(likeness).min() > evidence(search.nearest(others)[0]).max()

    def test_likeness_by_the_formula(self, cohort, labels):
        images, _, others = cohort
        codes = np.array([0] + [1] * 27)  # so that the first slice's own likeness is one of the two
        likeness, rows = Tumours(images, codes, labels, CPU).nearest(others[:1])
        inside = ndimage.binary_dilation(labels[0, 0] > 0, np.ones((3, 3))) & (images[0] > 10).any(0)
        best = 0
        for way in (others[0], others[0, ..., ::-1]):
            x = np.where((way > 10).any(0), way, 0).astype(float)[:, inside]
            t = images[0].astype(float)[:, inside]
            x, t = (each - each.mean(1, keepdims=True) for each in (x, t))
            spread = np.sqrt((x**2).sum(1) + inside.sum() * SIGMA**2)
            best = max(best, np.mean(np.abs((x * t).sum(1)) / np.linalg.norm(t, axis=1) / spread))
        assert best == pytest.approx(likeness[0, 0 if rows[0] == 0 else 1].item(), abs=1e-4)

    def test_who_has_no_tumour_is_not_searched(self, cohort, labels):
        images, codes, _ = cohort
        labels[4:] = 0
        labels[2, 0, :, 10:] = labels[2, 0, 14:] = 0  # a small one
        assert Tumours(images, codes, labels, CPU).rows.tolist() == [0, 1, 3]
        assert not Tumours(images, codes, np.where(codes[:, None, None, None] == 0, labels, 0), CPU).known
        assert "tumour" not in SecondStage(images, codes.astype(str), np.zeros_like(labels)).search(
            images[:2], labels[:2]
        )


class TestCombined:
    @pytest.mark.parametrize(("people", "each"), [(4, 5), (20, 5)])
    def test_false_positives_are_as_many_as_named_however_small_the_null(self, people, each):
        rng, trials = np.random.default_rng(0), 60
        names = np.repeat(np.arange(people), each)

        def drawn(n):  # searches of other scales and tails, one of them often without anything to search
            table = pd.DataFrame({
                "pose": rng.exponential(0.1, n), "half": 3 * rng.random(n), "swap": rng.lognormal(0, 0.5, n),
                "lesion": np.where(rng.random(n) < 0.5, rng.exponential(2.0, n), np.nan),
            })  # fmt: skip
            return table.assign(**{f"{search}_row": 0 for search in table})

        above = {0.95: 0.0, 0.99: 0.0}
        for _ in range(trials):
            combined = Combined(drawn(len(names)), names)
            new = combined.of(drawn(200))[0]
            for level in above:
                above[level] += (new > threshold(combined.null, level)).mean() / trials
        for level, share in above.items():
            assert share < max(1 - level, 1 / (len(names) + 1)) * 1.25 + 0.002

    def test_what_stands_out_in_one_search_is_named(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"pose": rng.random(50), "swap": 10 * rng.random(50), "pose_row": 3, "swap_row": 4})
        combined = Combined(table, np.arange(50))
        new = table[:2].assign(pose=[2.0, 0.5], swap=[5.0, 20.0])
        values, searches, rows = combined.of(new)
        assert searches.tolist() == ["pose", "swap"]
        assert rows.tolist() == [3, 4]
        low, high = np.quantile(table["pose"], [0.5, 0.9])
        assert values[0] == pytest.approx((2 - low) / (high - low))

    def test_evidence_by_hand(self):
        found = evidence(torch.tensor([[1.0, 0.5], [0.6, 0.6]]))
        assert found.tolist() == pytest.approx([np.log(0.505 / 0.005), 0])


def test_lesions_speak_only_where_something_is_annotated(patients):
    images, subjects = patients(55, 8)
    labels = np.zeros((8, 1, 32, 32), np.uint8)
    for number, label in enumerate(labels[:, 0]):
        label[12 : 18 + number % 3, 10 + number % 4 : 18] = 1
    strangers = patients(56, 3)[0]
    pasted = strangers.copy()
    pasted[:2, :, 10:22, 8:20] = images[[2, 5], :, 10:22, 8:20]
    stage = SecondStage(images, subjects, labels)
    table = stage.search(pasted, np.concatenate([labels[[2, 5]], np.zeros_like(labels[:1])]))
    assert table["lesion_row"][:2].tolist() == [2, 5]
    assert table["lesion"].isna().tolist() == [False, False, True]
    assert "lesion" not in SecondStage(images, subjects).search(pasted)
