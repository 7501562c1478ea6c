import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark.data.slices import SliceWriter
from benchmark.parsing import parse
from benchmark.stages import RunningTask, fidelity
from benchmark.training import checkpoints, models
from benchmark.training.processes import Team
from segmenters.base import normalize

SIZE = 16
PEOPLE = {"train": 40, "validation": 4, "test": 24}  # of 4 slices each
FEATURE_MEASURES = ("frechet", "kernel", "precision", "recall", "density", "coverage")


def write(folder, images, labels, split, subjects):
    kind = "synthetic" if set(split) == {"synthetic"} else "real"
    meta = {"kind": kind, "cohort": "phantom", "simulated": True, "spacing": {"s": [1, 1, 1]}}
    with SliceWriter(folder, SIZE, meta) as writer:
        for name in dict.fromkeys(split):
            rows = np.flatnonzero(np.array(split) == name)
            writer.append(images[rows], labels[rows], subject=[subjects[row] for row in rows], z=0, split=name)
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Folders of a real set and of an extractor for it, untrained, and the real set's arrays."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("cohort")
    split = np.repeat(list(PEOPLE), [4 * count for count in PEOPLE.values()])
    images = rng.integers(20, 255, (len(split), 4, SIZE, SIZE)).astype(np.uint8)
    labels = rng.integers(0, 4, (len(split), SIZE, SIZE)).astype(np.uint8)
    real = write(folder / "real", images, labels, split, [f"{s}{i // 4}" for i, s in enumerate(split)])
    torch.manual_seed(0)
    config = parse("fidelity", {"image_size": SIZE})
    model = models.create_segmenter(models.extractor_config(config), SIZE)
    checkpoints.save_weights(model.weights(), folder / "weights.safetensors")
    return SimpleNamespace(folder=folder, real=real, model=model, images=images, labels=labels, split=split)


def measure(cohort, folder, images, labels, subjects=None, **keys):
    """Content of fidelity.json for a synthetic set of these slices, and the headline."""
    subjects = subjects or ["one name for all"] * len(images)
    made = write(folder / "made", images, labels, ["synthetic"] * len(images), subjects)
    config = parse("fidelity", {"image_size": SIZE, "synthetic": str(made), "device": "cpu", **keys})
    inputs = {"prepare": SimpleNamespace(path=cohort.real), "extractor": SimpleNamespace(path=cohort.folder)}
    logged = []
    tracked = SimpleNamespace(log_artifact=logged.append)
    headline = fidelity.run(RunningTask(config, inputs, folder, tracked, Team(), None))
    assert logged == [folder / "fidelity.json"]
    return json.loads(logged[0].read_text(), parse_constant=pytest.fail), headline


def test_held_out_patients_sent_as_volumes_lie_on_the_floor(cohort, tmp_path):
    held_out = cohort.split == "test"  # and not validation, by which snapshots are chosen
    volumes = [f"volume {i // 4}" for i in range(held_out.sum())]
    found, headline = measure(cohort, tmp_path, cohort.images[held_out], cohort.labels[held_out], volumes)
    assert found["people"] == {"synthetic": 24, "reference": 40, "floor": 24}
    assert (found["draws"], found["per_draw"], found["n"]["floor"]) == (100, 24, 96)
    assert found["reasons"] == {}
    assert (found["features"], found["components"]) == (240, 2)
    assert 0 < found["explained"] < 1
    assert "phantom" in found["extractor"]
    names = {f"ms_ssim_{name}" for name in ("T1", "T1ce", "T2", "FLAIR")}
    names |= {"label_dice", *(f"label_dice_{name}" for name in ("NCR", "ED", "ET"))}
    assert found["values"].keys() == found["floor"].keys() == {*FEATURE_MEASURES, *names}
    assert found["values_sd"].keys() == found["floor_sd"].keys() == set(FEATURE_MEASURES)
    for name in FEATURE_MEASURES:  # each a mean over draws, but of other slices
        error = np.hypot(found["values_sd"][name], found["floor_sd"][name]) / 10
        assert abs(found["values"][name] - found["floor"][name]) <= 4 * error, name
    for name in ("label_dice", "label_dice_ET"):
        assert found["values"][name] == pytest.approx(found["floor"][name], rel=1e-6), name
    assert headline["frechet_floor"] == found["floor"]["frechet"] > 0
    assert headline["label_dice"] == found["values"]["label_dice"]
    assert headline["slices_per_draw"] == 24


def test_slices_of_a_generator_are_each_of_their_own(cohort, tmp_path):
    held_out = cohort.split == "test"
    found, _ = measure(cohort, tmp_path, cohort.images[held_out], cohort.labels[held_out])
    assert found["people"]["synthetic"] == 96
    assert found["per_draw"] == 24  # as many as there are test patients


def test_one_training_slice_over_and_over_is_precise_and_not_varied(cohort, tmp_path):
    same = np.zeros(40, int)
    found, _ = measure(cohort, tmp_path, cohort.images[same], cohort.labels[same])
    values, floor = found["values"], found["floor"]
    assert values["kernel"] > floor["kernel"]
    assert values["coverage"] < floor["coverage"] / 2
    assert values["ms_ssim_T1"] == pytest.approx(1, abs=1e-5)
    assert floor["ms_ssim_T1"] < 0.5


def test_label_dice_is_dice_of_prediction_and_annotation_over_all_pixels(cohort, tmp_path):
    rows = np.flatnonzero(cohort.split == "test")[:40]
    images, labels = cohort.images[rows], cohort.labels[rows].copy()
    labels[labels == 3] = 0
    found, headline = measure(cohort, tmp_path, images, labels)
    assert found["n"]["synthetic"] == 40  # every slice has been drawn
    predicted = cohort.model.predict(normalize(torch.from_numpy(images))).argmax(1).numpy()
    for k, name in ((1, "NCR"), (2, "ED")):
        dice = 2 * np.sum((predicted == k) & (labels == k)) / (np.sum(predicted == k) + np.sum(labels == k))
        assert found["values"][f"label_dice_{name}"] == pytest.approx(dice, abs=1e-3)
    assert found["values"]["label_dice_ET"] is found["values"]["label_dice"] is headline["label_dice"] is None
    assert found["reasons"]["label_dice_ET"] == "no synthetic slice is annotated ET"
    assert found["floor"]["label_dice"] is not None


def test_as_few_slices_are_drawn_as_asked(cohort, tmp_path):
    found, _ = measure(cohort, tmp_path, cohort.images, cohort.labels, samples=3)
    assert found["per_draw"] == 3
    assert found["reasons"].keys() == {"frechet", "precision", "recall", "density", "coverage"}
    assert found["values"]["frechet"] is found["floor"]["frechet"] is None
    assert "at least 10 samples" in found["reasons"]["frechet"]
    assert found["values"]["kernel"] is not None
