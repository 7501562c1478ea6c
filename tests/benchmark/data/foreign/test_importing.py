"""What holds for every set, whatever its format."""

import numpy as np

BRATS = np.array([0, 1, 2, 4], np.uint8)  # of classes 0–3


def test_a_set_without_any_brain_is_refused(sets, tmp_path):
    images, labels = sets.make_set(3)
    images[:, 0] = np.minimum(images[:, 0], 50)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    assert "no slice shows a brain" in sets.refused(folder, tmp_path / "out")


def test_a_set_without_any_tumour_is_taken(sets, tmp_path):
    images, labels = sets.make_set(3)
    sets.assert_holds(
        sets.run(sets.save_folders(tmp_path / "sent", images, 0 * labels), tmp_path / "out"), images, 0 * labels
    )


def test_a_new_import_replaces_what_stands(sets, tmp_path):
    images, labels = sets.make_set(3)
    folder = sets.save_folders(tmp_path / "sent", images, BRATS[labels])
    sets.run(folder, tmp_path / "out")
    sets.assert_holds(sets.run(folder, tmp_path / "out"), images, labels)
