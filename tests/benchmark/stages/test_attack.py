"""The stage attack on the smoke preset, of a generator and of a folder, and what it does without a critic."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmark.data.slices import SliceSet
from benchmark.parsing import parse
from benchmark.stages import attack, needs
from benchmark.table.run import call
from benchmark.training import critics
from benchmark.training.critics import NoCritic, load_critic


@pytest.fixture(scope="module")
def smoke(prepared, tmp_path_factory):
    """attacked(synthetic, **keys) → result and attack.json, in a folder where the smoke preset is prepared."""
    folder = tmp_path_factory.mktemp("attack")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)

        def attacked(synthetic, **keys):
            given = {"preset": "smoke", "work_dir": str(folder / "work"), "synthetic": str(synthetic), **keys}
            config = parse("attack", given)
            result = call("attack", config)
            found = json.loads((result.path / "attack.json").read_text(), parse_constant=pytest.fail)
            return SimpleNamespace(result=result, found=found, config=config, folder=folder)

        yield attacked


@pytest.fixture(scope="module")
def gan(smoke):
    return smoke("stylegan2", canaries="1")


def test_every_attack_is_judged_on_patients_and_timed(gan):
    found = gan.found
    assert found["attacks"].keys() == {"distance", "ratio", "attribute", "link", "white_box"}
    assert found["reasons"] == {}
    assert found["seconds"].keys() == {"membership", "attribute", "linkage", "white_box"}
    assert found["critic"] == "discriminator"
    assert found["patients"] == {"members": 5, "held_out": 3, "reference": 2, "canaries": 2}
    people = pd.read_csv(gan.result.path / "patients.csv")
    assert people["member"].sum() == 7
    assert sorted(people["times"]) == [1] * 8 + [4, 16]
    for name, verdict in found["attacks"].items():
        assert (verdict["members"], verdict["held_out"]) == (5, 3)  # canaries are judged apart
        scores = people[people["times"] == 1].groupby("member")[name].apply(np.array)
        pairs = [(a > b) + (a == b) / 2 for a in scores[True] for b in scores[False]]
        assert verdict["auc"] == pytest.approx(np.mean(pairs)), name
        assert verdict["canaries"].keys() == {"4", "16"}
        assert gan.result.headline["auc"][name] == verdict["auc"]


def test_members_and_held_out_are_those_of_the_split_and_validation_is_neither(gan):
    real = SliceSet.open(next((gan.folder / "work" / "prepare").glob("*/meta.json")).parent)
    people = pd.read_csv(gan.result.path / "patients.csv")
    for split, member in (("train", True), ("test", False)):
        assert set(people.loc[people["member"] == member, "patient"]) == set(
            real.index.loc[real.rows(split), "patient"]
        )


def test_a_gan_without_its_checkpoint_has_no_white_box_attack_and_says_why(gan):
    config = gan.config.replace({"train_generator.model": "stylegan2"})
    (trained,) = (gan.folder / "work" / "train_generator").glob("*/canaries.json")
    real = SliceSet.open(next((gan.folder / "work" / "prepare").glob("*/meta.json")).parent)
    model = load_critic(config, 16, trained.parent)
    rows = real.rows("test")[:3]
    scores = critics.familiarity(model, real, rows, "nested", 0)
    assert scores.shape == (3,)
    (trained.parent / "checkpoints").rename(trained.parent / "gone")
    with pytest.raises(NoCritic, match="discriminator is in no released weights, and no sound checkpoint"):
        load_critic(config, 16, trained.parent)
    (trained.parent / "gone").rename(trained.parent / "checkpoints")


def test_a_sent_set_is_attacked_without_its_generator(smoke, gan):
    sampled = next((gan.folder / "work" / "sample").glob("*/meta.json")).parent
    sent = shutil.copytree(sampled, gan.folder / "sent", ignore=shutil.ignore_patterns("stage.json"))
    found = smoke(sent).found
    assert found["reasons"] == {"white_box": "the set was sent without the generator that made it"}
    assert found["attacks"].keys() == {"distance", "ratio", "attribute", "link"}
    assert found["patients"]["canaries"] == 0
    for name, verdict in found["attacks"].items():  # the same set, but nobody knows of canaries
        assert verdict["members"] == 7, name


def test_the_attack_needs_every_training_of_an_ensemble(gan):
    config = gan.config.replace({"sample.ensemble": 3})
    assert needs("attack", config).keys() == {"prepare", "synthetic", *(f"train_generator_{i}" for i in range(3))}
    seeds = [need.config.train_generator.seed for name, need in needs("attack", config).items() if "train" in name]
    assert seeds == [0, 1, 2]


def test_slices_of_a_patient_are_evenly_spaced_in_their_order():
    patients = np.array(["b"] * 9 + ["a"] * 2 + ["c"])
    rows = np.arange(12)
    assert attack.spaced(rows, patients, 3).tolist() == [0, 4, 8, 9, 10, 11]
    assert attack.spaced(rows[:0], patients, 3).tolist() == []
