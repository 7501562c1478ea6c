"""Which patients' slices a generator is trained on."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.training.cohort import seen_by, trained_on

PATIENTS = np.repeat([f"p{number:02d}" for number in range(20)], [1 + number % 4 for number in range(20)])
SPLIT = np.where(PATIENTS < "p16", "train", "test")


@pytest.fixture(scope="module")
def slices():
    """Sixteen training patients of one to four slices, four test patients, in no order."""
    order = np.random.default_rng(0).permutation(len(PATIENTS))
    return SimpleNamespace(
        index=pd.DataFrame({"patient": PATIENTS[order]}),
        meta={"cohort": "phantom"},
        rows=lambda split: np.flatnonzero(SPLIT[order] == split),
    )


def chosen(slices, **keys):
    config = parse("sample", {"preset": "smoke", **{key: str(value) for key, value in keys.items()}})
    return config, trained_on(config, slices)


def patients(slices, rows):
    return set(slices.index["patient"].iloc[rows])


def test_fewer_patients_lie_within_more_and_come_with_all_their_slices(slices):
    before = set()
    for count in range(1, 17):
        rows = chosen(slices, subjects=count)[1]
        names = patients(slices, rows)
        assert len(names) == count
        assert before < names
        assert set(rows) == set(np.flatnonzero(slices.index["patient"].isin(names)))
        before = names
    assert sorted(rows) == list(rows) == list(slices.rows("train")) == list(chosen(slices)[1])


def test_each_seed_draws_its_own(slices):
    drawn = {
        frozenset(patients(slices, chosen(slices, subjects=4, **{"train_generator.seed": s})[1])) for s in range(8)
    }
    assert len(drawn) > 4


def test_an_ensemble_has_seen_whom_any_of_its_generators_has(slices):
    config, first = chosen(slices, subjects=3, ensemble=2)
    second = chosen(slices, subjects=3, **{"train_generator.seed": 1})[1]
    assert set(seen_by(config, None, slices)) == {*first, *second} > set(first)
    assert list(seen_by(config, "sent/folder", slices)) == list(slices.rows("train"))


def test_more_patients_than_there_are_is_refused(slices):
    with pytest.raises(UserError, match=r"subjects: 17 patients were asked for, but phantom has 16 for training"):
        chosen(slices, subjects=17)
