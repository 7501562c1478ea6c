import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.training import canaries


def test_as_many_patients_are_shown_16_as_4_times_and_a_seed_chooses_them():
    patients = np.repeat([f"p{i}" for i in range(20)], 3)
    drawn = canaries.draw_canaries(patients, 4, 0)
    assert sorted(drawn.values()) == [4] * 4 + [16] * 4
    assert set(drawn) <= set(patients)
    assert drawn == canaries.draw_canaries(patients[::-1], 4, 0)
    assert drawn != canaries.draw_canaries(patients, 4, 1)
    assert canaries.draw_canaries(patients, 0, 0) == {}


def test_every_slice_of_a_canary_is_shown_as_often_as_it_should_be():
    rows, patients = np.array([2, 3, 5, 8]), np.array(["a", "b", "a", "c"])
    shown, counts = np.unique(canaries.repeated(rows, patients, {"a": 16, "c": 4}), return_counts=True)
    assert shown.tolist() == rows.tolist()
    assert counts.tolist() == [16, 1, 16, 4]
    assert canaries.repeated(rows, patients, {}).tolist() == rows.tolist()


def test_somebody_has_to_be_shown_once():
    assert len(canaries.draw_canaries(np.arange(9).astype(str), 4, 0)) == 8
    with pytest.raises(UserError, match=r"canaries: 4 patients 16 times .* none of 8 .* give 3 at most"):
        canaries.draw_canaries(np.arange(8).astype(str), 4, 0)


def test_they_are_kept_beside_the_weights(tmp_path):
    assert canaries.read_canaries(tmp_path) == {}
    canaries.write_canaries({}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    canaries.write_canaries({"a": 16, "b": 4}, tmp_path)
    assert canaries.read_canaries(tmp_path) == {"a": 16, "b": 4}
