"""Sample i is of generator i mod N, from its seed alone, wherever sampling goes on and on however many devices."""

import numpy as np
import pytest

from benchmark.training import sampling


@pytest.fixture(autouse=True)
def draw(monkeypatch):
    """Slices that show who was asked for which seed: the seed's last digits in images, the generator in labels."""

    def draw(model, seeds, coding):
        assert coding == "nested"
        numbers = np.array([seed % 10**9 for seed in seeds])
        images = np.broadcast_to(numbers[:, None, None, None], (len(seeds), 4, 2, 2)).astype(np.uint8)
        return images, np.full((len(seeds), 2, 2), model, np.uint8), numbers / 100

    monkeypatch.setattr(sampling, "draw", draw)
    monkeypatch.setattr(sampling, "DRAW_BATCH", 4)


def joined(batches):
    batches = list(batches)
    seeds = [seed for batch in batches for seed in batch.seeds]
    return seeds, *(np.concatenate([getattr(b, name) for b in batches]) for name in ("images", "labels", "off_code"))


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("count", [1, 2])
def test_samples_come_in_order_of_the_generators_in_turn(devices, count):
    members = [[member] * devices for member in range(count)]
    seeds, images, labels, off_code = joined(sampling.sample(members, 0, 21, seed=7, coding="nested"))
    assert seeds == [7 * 10**9 + i for i in range(21)]
    assert images[:, 0, 0, 0].tolist() == list(range(21))
    assert labels[:, 0, 0].tolist() == [i % count for i in range(21)]
    np.testing.assert_array_equal(off_code, np.arange(21) / 100)


def test_what_is_left_is_made_in_the_same_batches():
    whole = [batch.seeds for batch in sampling.sample([[0], [1]], 0, 21, seed=7, coding="nested")]
    assert [len(seeds) for seeds in whole] == [8, 8, 5]
    assert [batch.seeds for batch in sampling.sample([[0], [1]], 8, 21, seed=7, coding="nested")] == whole[1:]
