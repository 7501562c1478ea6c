"""Attacks: against planted truth and brute force."""

import math
from itertools import combinations

import numpy as np
import pytest

from analysis import attacks
from analysis.attacks_search import correlation, ranked
from analysis.attacks_statistics import TooFewPatients, auc, judge
from analysis.neighbours import Rows

SLICES, SIZE = 6, 16


@pytest.fixture(scope="module")
def people(patients):
    """Slices and patients by kind, and sets: members' noisy copies, and slices of new subjects."""
    images, names = patients(0, 30, SLICES, SIZE)
    kinds = np.repeat(["member", "held_out", "reference"], [14 * SLICES, 10 * SLICES, 6 * SLICES])
    found = {kind: (Rows(images, np.flatnonzero(kinds == kind)), names[kinds == kind]) for kind in np.unique(kinds)}
    noise = np.random.default_rng(0).normal(0, 6, (14 * SLICES, 4, SIZE, SIZE))
    copies = np.clip(images[kinds == "member"] + noise, 0, 255).astype(np.uint8)
    return found, {"copies": copies, "strangers": patients(1, 14, SLICES, SIZE)[0]}


def run(attack, people, name, **options):
    kinds, sets = people
    return attack(sets[name], *kinds["member"], *kinds["held_out"], **options)


# The least AUC: halves of a held-out patient, whose slices are as alike here, link too.
ATTACKS = [
    (attacks.membership, ("distance", "ratio"), True, 0.95),
    (attacks.attributes, ("attribute",), True, 0.95),
    (attacks.linkage, ("link",), False, 0.75),
]


@pytest.mark.parametrize(("attack", "columns", "referred", "least"), ATTACKS)
def test_members_whose_copies_lie_in_the_set_are_told_and_others_are_not(people, attack, columns, referred, least):
    options = {"reference": people[0]["reference"][0]} if referred else {}
    copied, made = (run(attack, people, name, **options) for name in ("copies", "strangers"))
    for column in columns:
        found = judge(copied[column], copied["member"])
        assert found["auc"] > least, column
        assert found["risk_interval"][0] > 0
        assert found["p_value"] < 0.01
        nothing = judge(made[column], made["member"])
        assert nothing["auc_interval"][0] < 0.5 < nothing["auc_interval"][1], column
        assert nothing["p_value"] > 0.05


def test_every_patient_has_one_row_members_first(people):
    found = run(attacks.membership, people, "copies")
    (_, members), (_, others) = people[0]["member"], people[0]["held_out"]
    assert found.columns.tolist() == ["patient", "member", "distance"]
    assert found["patient"].tolist() == [*np.unique(members), *np.unique(others)]
    assert found["member"].tolist() == [True] * 14 + [False] * 10


def test_distance_is_that_of_the_patient_s_closest_slice(people):
    """Brute force: correlation inside the union of the masks, as is or mirrored, of slices that are not shifted."""
    (rows, names), made = people[0]["held_out"], people[1]["copies"].copy()
    images = np.array(rows)
    made[3] = images[7]  # an exact copy
    found = attacks.membership(made, *people[0]["member"], rows, names).set_index("patient")["distance"]
    assert found[names[7]] == -attacks.LEAST_DISTANCE
    for patient in np.unique(names)[2:5]:
        best = max(_pearson(a, b) for a in images[names == patient] for b in (*made, *made[..., ::-1]))
        assert found[patient] >= best - 1 - 1e-6  # shifts and SSIM can only bring slices closer


def _pearson(a, b):
    union = (a.max(0) > 10) | (b.max(0) > 10)
    a, b = (np.where(x.max(0) > 10, x, 0)[:, union].ravel() for x in (a, b))
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize("channels", [None, [0, 1, 3]])
def test_the_ranking_is_that_of_brute_force_whatever_the_memory(people, channels):
    queries, references = np.array(people[0]["held_out"][0])[:5], people[1]["strangers"]
    chosen = [0, 1, 2, 3] if channels is None else channels
    every = np.array([[_pearson(a[chosen], b[chosen]) for b in references] for a in queries])
    for memory in (1.0, 1e-4):
        r, rows = ranked(queries, references, 7, channels=channels, memory_gib=memory)
        assert rows.tolist() == np.argsort(-every, 1)[:, :7].tolist()
        np.testing.assert_allclose(r, np.take_along_axis(every, rows, 1), atol=1e-4)
    assert ranked(queries, references[:3], 7)[1].shape == (5, 3)


def test_empty_and_constant_slices_correlate_with_nothing():
    empty, constant = np.zeros((1, 4, 8, 8), np.uint8), np.full((1, 4, 8, 8), 99, np.uint8)
    other = np.random.default_rng(0).integers(20, 255, (2, 4, 8, 8)).astype(np.uint8)
    r, _ = ranked(np.concatenate([empty, constant]), np.concatenate([other, empty, constant]), 4)
    assert not r.any()
    assert not correlation(constant[:, 0].astype(float), other[:1], 0, [1, 2, 3]).any()


def test_a_guess_is_correlated_inside_the_brain_alone(people):
    images = np.array(people[0]["held_out"][0])[:4]
    guess = np.random.default_rng(0).uniform(0, 255, (4, SIZE, SIZE))
    found = correlation(guess, images, 2, [0, 1, 3])
    for i in range(4):
        brain = images[i, [0, 1, 3]].max(0) > 10
        assert found[i] == pytest.approx(np.corrcoef(guess[i][brain], images[i, 2][brain])[0, 1])


def test_a_missing_modality_that_the_set_holds_is_guessed_exactly(people):
    images = np.array(people[0]["member"][0])
    found = attacks.attributes(images, *people[0]["member"], *people[0]["held_out"])
    assert found["attribute"][found["member"]].min() > 0.97  # four strangers share the guess, with little weight
    assert found["attribute"][~found["member"]].max() < 0.9


def test_links_in_random_pools_are_counted_exactly():
    others = np.array([0.9, 0.5, 0.5, 0.5, 0.3, 0.2, 0.1])
    for own in (0.95, 0.5, 0.25, 0.05):
        for drawn in (1, 3, 7):
            firsts, largest = [], []
            for pool in combinations(others, drawn):
                firsts.append(0.0 if max(pool) > own else 1 / (1 + pool.count(own)))
                largest.append(max(pool))
            found = attacks._among(own, others, drawn)
            assert found == pytest.approx((np.mean(firsts), own - np.mean(largest)))


def test_halves_that_share_no_synthetic_slice_are_linked_by_chance():
    """Rows of neighbours by hand: the first patient's halves share theirs, the others' do not."""
    rows = np.array([[0, 1], [0, 1], [2, 3], [4, 5], [6, 7], [8, 9]])
    patients = np.array(["a", "a", "b", "b", "c", "c"])
    linked, link = attacks._linked(rows, patients, 10, pool=3)
    assert linked.tolist() == pytest.approx([1, 1 / 3, 1 / 3])
    assert link.tolist() == pytest.approx([1, 0, 0])
    only_one = attacks._linked(rows[[0, 1, 2]], patients[[0, 1, 2]], 10, pool=2)
    assert only_one[0].tolist() == pytest.approx([1, 1 / 2])


def test_a_patient_who_is_both_is_refused_and_so_are_too_few(people):
    kinds, sets = people
    images, names = kinds["member"]
    with pytest.raises(ValueError, match=f"no control: {names[0]}"):
        attacks.membership(sets["copies"], images, names, images[:2], names[:2])
    with pytest.raises(TooFewPatients, match="two held-out"):
        attacks.linkage(sets["copies"], images, names, kinds["held_out"][0][:2], kinds["held_out"][1][:2])


def test_the_mean_and_the_maximum_of_a_patient_s_slices():
    people = attacks.patients_of(np.array(["b", "a", "b"]), np.array(["c"]))
    values, names = np.array([1.0, 5, 2, 7]), np.array(["b", "a", "b", "c"])
    assert attacks.by_patient(values, names, people, "max").tolist() == [5, 2, 7]
    assert attacks.by_patient(values, names, people, "mean").tolist() == [5, 1.5, 7]
    assert math.isclose(auc(np.array([5, 1.5]), np.array([7.0])), 0)
