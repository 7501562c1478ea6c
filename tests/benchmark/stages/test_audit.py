import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis import memorization
from benchmark.data.slices import SliceWriter
from benchmark.parsing import parse
from benchmark.stages import RunningTask, audit
from benchmark.training.processes import Team

SIZE = 16


def write(folder, images, split, subjects):
    kind = "synthetic" if set(split) == {"synthetic"} else "real"
    meta = {"kind": kind, "cohort": "phantom", "simulated": True, "spacing": {"s": [1, 1, 1]}}
    labels = np.zeros((len(images), SIZE, SIZE), np.uint8)
    labels[:, 6:10, 6:10] = 1
    with SliceWriter(folder, SIZE, meta) as writer:
        for name in dict.fromkeys(split):
            rows = np.flatnonzero(np.array(split) == name)
            writer.append(images[rows], labels[rows], subject=[subjects[row] for row in rows], z=0, split=name)
    return folder


def slices(seed, people):
    """Two slices a person, of a disc with its own pattern."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:SIZE, :SIZE] - 7.5
    pattern = np.repeat(rng.uniform(40, 250, (people, 4, 4, 4)), 2, 0).repeat(4, 2).repeat(4, 3)
    noisy = pattern + rng.normal(0, 10, pattern.shape)
    return (np.clip(noisy, 20, 255) * (x**2 + y**2 < 49)).astype(np.uint8)


@pytest.mark.parametrize("sent_as_volumes", [True, False])
def test_slices_of_a_sent_volume_are_one_person_s(sent_as_volumes, tmp_path, monkeypatch):
    monkeypatch.setattr(memorization, "PLANTED", 1)
    people = {"train": 12, "validation": 2, "test": 12}
    split = np.repeat(list(people), [2 * count for count in people.values()])
    real = write(
        tmp_path / "real", np.concatenate([slices(*each) for each in enumerate(people.values())]), split,
        [f"{name}{row // 2}" for row, name in enumerate(split)],
    )  # fmt: skip
    strangers = slices(9, 8)
    copies = np.concatenate([slices(0, 12)[:8], strangers])  # of four training patients
    names = [f"volume{row // 8}" if sent_as_volumes else "one name for all" for row in range(len(copies))]
    made = write(tmp_path / "made", copies, ["synthetic"] * len(copies), names)
    config = parse("audit", {"image_size": SIZE, "synthetic": str(made), "device": "cpu"})
    logged, folder = [], tmp_path / "audit"
    folder.mkdir()
    inputs = {"prepare": SimpleNamespace(path=real)}
    headline = audit.run(RunningTask(config, inputs, folder, SimpleNamespace(log_artifact=logged.append), Team(), None))
    found = json.loads((folder / "audit.json").read_text(), parse_constant=pytest.fail)
    assert set(found["memorized_share"]) == {"tau95", "tau99"}
    assert found["copied_share"] == headline["copied_share"]
    assert found["copied_share"]["tau95"] >= 8 / 24
    assert found["copied_patients"]["count"] <= 6
    assert (found["copied_p_value"]["tau95"] < 0.01) != sent_as_volumes  # eight copies of one sent person prove little
    assert [path.name for path in logged] == ["audit.json", "nearest.csv", "null.csv"]
    assert found["test_patients"]["warning"] is None
    table = pd.read_csv(folder / "nearest.csv")
    with np.load(folder / "pairs.npz", allow_pickle=False) as stored:
        assert stored["row"].tolist() == table["evidence"].nlargest(audit.PAIRS).index.tolist()
        assert np.array_equal(stored["images"][:, 0], copies[stored["row"]])
        known = stored["row"] < 8  # exact copies of the training slices of these rows
        assert known.sum() >= 4
        assert np.array_equal(stored["images"][known, 0], stored["images"][known, 1])
        assert stored["lies_alike"][known].all()


def test_a_sent_set_that_knows_the_test_patients_is_warned_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(memorization, "PLANTED", 1)
    split = np.repeat(["train", "test"], 24)
    names = [f"{name}{row // 2}" for row, name in enumerate(split)]
    real = write(tmp_path / "real", np.concatenate([slices(0, 12), slices(1, 12)]), split, names)
    made = write(tmp_path / "theirs", np.concatenate([slices(1, 12)[:8], slices(9, 8)]), ["synthetic"] * 24, ["s"] * 24)
    config = parse("audit", {"image_size": SIZE, "synthetic": str(made), "device": "cpu"})
    folder = tmp_path / "audit"
    folder.mkdir()
    tracked = SimpleNamespace(log_artifact=lambda path: None)
    audit.run(RunningTask(config, {"prepare": SimpleNamespace(path=real)}, folder, tracked, Team(), None))
    found = json.loads((folder / "audit.json").read_text())["test_patients"]
    assert found["copied_share"]["tau95"] >= 8 / 24
    assert "of 12 patients" in found["warning"]
    assert f"theirs: {found['warning']}" in caplog.messages
