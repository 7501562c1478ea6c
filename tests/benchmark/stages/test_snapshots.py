"""What test subjects tell of snapshots whose samples are planted: copies of those who were trained on, strangers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmark.data.slices import SliceSet
from benchmark.parsing import parse
from benchmark.stages import RunningTask, snapshots
from benchmark.training.cohort import trained_on
from benchmark.training.processes import Team


@pytest.fixture(scope="module")
def measured(prepared, tmp_path_factory):
    """Of three snapshots: the training slices of four patients, the test slices, the slices of the three others."""
    folder = tmp_path_factory.mktemp("snapshots")
    (stored,) = (prepared / "work/prepare").glob("*/images.npy")
    (extractor,) = (prepared / "work/train_segmenter").glob("*/weights.safetensors")
    keys = {"preset": "smoke", "model": "diffusion", "subjects": "4", "judge_images": "16", "device": "cpu"}
    config, slices = parse("train_generator", keys), SliceSet.open(stored.parent)
    rows = trained_on(config, slices)
    others = np.setdiff1d(slices.rows("train"), rows)
    (folder / "snapshots").mkdir()
    for seen, chosen in ((8, rows), (16, slices.rows("test")), (24, others)):
        images, labels = slices.images[chosen], slices.labels[chosen]
        np.savez(folder / "snapshots" / f"{seen:09d}.npz", images=images, labels=labels)
    curve = {"seen": [8, 16, 24], "kept": [True, False, False], "kept_if_stopped": [False] * 3}
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    paths = {"prepare": stored.parent, "extractor": extractor.parent, "train_generator": folder}
    inputs = {name: SimpleNamespace(path=path) for name, path in paths.items()}
    tracked = SimpleNamespace(log_artifact=lambda path: None, log_metrics=lambda metrics, step: None)
    headline = snapshots.run(RunningTask(config, inputs, folder, tracked, Team(), None))
    assert headline == {"snapshots": 3, "test_patients": 3}
    return pd.read_csv(folder / "snapshots.csv").set_index("seen")


def test_copies_of_those_who_were_trained_on_are_found(measured):
    copies = measured.loc[8]
    assert (copies["test_memorized_share"], copies["test_copied_share"], copies["test_membership_auc"]) == (1, 1, 1)


def test_test_slices_are_their_own_null_and_nobody_s_copies(measured):
    strangers = measured.loc[16]
    assert strangers["test_memorized_share"] <= 0.05
    assert strangers["test_copied_share"] == 0
    assert strangers["test_membership_auc"] == 0  # as close as can be to those who were not trained on
    assert strangers["test_kernel_distance"] < min(0, strangers["test_kernel_floor"])


def test_training_patients_whom_the_generator_did_not_see_are_strangers_too(measured):
    assert measured["test_copied_share"][24] < 0.2


def test_only_kept_snapshots_and_the_last_are_judged_by_test_subjects(measured):
    assert measured["test_dice"].notna().tolist() == [True, False, True]
