"""What a training sees, and when."""

from types import SimpleNamespace

import numpy as np

from benchmark.training.order import Phase, drawn, mix, phase_at, shuffled_rows


def test_every_row_comes_once_an_epoch_whatever_the_batch():
    stream = shuffled_rows(10, 0, 40, seed=3)
    for epoch in stream.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(stream[:10], stream[10:20])
    pieces = [shuffled_rows(10, start, 8, seed=3) for start in range(0, 40, 8)]
    assert np.array_equal(np.concatenate(pieces), stream)
    assert not np.array_equal(shuffled_rows(10, 0, 40, seed=4), stream)


def test_seeds_are_mixed_without_collisions():
    mixed = {mix(a, b) for a in range(100) for b in range(100)}
    assert len(mixed) == 10_000
    assert all(0 <= value < 2**63 for value in mixed)


def test_a_smaller_share_lies_within_a_larger_one():
    items = np.arange(100, 140)
    shares = [set(drawn(items, share, seed=2)) for share in (0.001, 0.25, 0.5, 1)]
    assert [len(share) for share in shares] == [1, 10, 20, 40]
    assert shares[0] < shares[1] < shares[2] < shares[3] == set(items)
    assert set(drawn(items, 0.5, seed=3)) != shares[2]


def _slices(first, count):
    """Images whose pixels, and labels whose pixels, are all the number of the slice."""
    numbers = np.arange(first, first + count, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 4, 2, 3))
    return SimpleNamespace(images=images, labels=images[:, 0])


def test_a_phase_s_batches_are_its_rows_of_all_its_sets_each_once_an_epoch():
    phase = Phase(16, [(_slices(0, 50), np.array([4, 7, 9])), (_slices(100, 50), np.array([0, 20]))])
    assert len(phase) == 5
    whole = [phase.batch(seen, 4, seed=1, share=slice(None)) for seen in range(16, 56, 4)]
    shown = np.concatenate([images[:, 0, 0, 0] for images, _ in whole])
    for epoch in shown.reshape(8, 5):
        assert sorted(epoch) == [4, 7, 9, 100, 120]
    assert all(np.array_equal(images[:, 0], labels) and images.shape == (4, 4, 2, 3) for images, labels in whole)
    halves = [phase.batch(20, 4, seed=1, share=slice(part, None, 2))[0] for part in (0, 1)]
    assert np.array_equal(np.stack(halves, 1).reshape(4, 4, 2, 3), whole[1][0])


def test_a_phase_lasts_until_the_next_begins():
    phases = [Phase(0, []), Phase(16, [])]
    assert [phase_at(phases, seen).start for seen in (0, 15, 16, 900)] == [0, 0, 16, 16]
