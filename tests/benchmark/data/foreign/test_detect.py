"""Which folders are sets, and of which format."""

import pytest

from benchmark.data.foreign import detect
from benchmark.errors import UserError


def test_other_folders_are_refused_with_what_is_known(sets, tmp_path):
    (tmp_path / "T1").mkdir()
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert not detect.recognised(folder)
        wrong = "no synthetic set was recognised" if folder == tmp_path else "is not a folder"
        with pytest.raises(UserError, match=rf"{wrong}.*T1ce.*NIfTI volumes.*images\.npy"):
            detect.find(folder)


def test_a_slice_set_is_not_imported_again(sets, tmp_path):
    images, labels = sets.make_set(3)
    sets.run(sets.save_arrays(tmp_path / "sent", images=images, labels=labels), tmp_path / "out")
    assert detect.is_slice_set(tmp_path / "out")
    assert not detect.is_slice_set(tmp_path / "sent")
    with pytest.raises(UserError, match="is a SliceSet already"):
        detect.find(tmp_path / "out")
