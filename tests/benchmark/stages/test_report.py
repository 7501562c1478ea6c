from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.set_tables import FIDELITY
from benchmark.config import Config
from benchmark.data.slices import SliceWriter
from benchmark.parsing import parse
from benchmark.stages import StageResult, report

CURVE = pd.DataFrame({"seen": [8, 16], "kernel_distance": [0.2, 0.1], "kept": [False, True]})


def trained(folder, model: str, seed: int) -> StageResult:
    path = folder / f"{model}{seed}"
    path.mkdir()
    CURVE.assign(kernel_floor=seed).to_csv(path / "curve.csv", index=False)
    return StageResult("train_generator", "", "", path, False, tags={"model": model, "seed": seed})


def test_the_curves_of_an_ensemble_stand_side_by_side(tmp_path):
    results = [trained(tmp_path, "diffusion", 0), trained(tmp_path, "stylegan3", 0), trained(tmp_path, "diffusion", 1)]
    config = Config().replace({"train_generator.snapshot_samples": 96})
    curves = report._curves(config, results, ["stylegan3", "diffusion", "mine"])
    assert list(curves) == ["stylegan3", "diffusion"]
    assert curves["diffusion"]["seed"].tolist() == [0, 0, 1, 1]
    assert curves["diffusion"]["kernel_floor"].tolist() == [0, 0, 1, 1]
    assert set(curves["diffusion"]["samples"]) == {96}


def test_of_the_whole_set_behind_a_filtered_one_the_table_does_not_ask(tmp_path):
    sets = ["stylegan3", "diffusion (selected)"]
    results = [trained(tmp_path, "stylegan3", 0), trained(tmp_path, "diffusion", 0)]
    assert list(report._curves(Config(), results, sets)) == ["stylegan3"]
    audits = [_audited("diffusion", seed=0), _audited("diffusion (selected)", seed=0)]
    assert report._by_set(Config(), audits, "audit", sets).keys() == {"diffusion (selected)"}


def _audited(model: str, **tags) -> StageResult:
    path = Path(model, str(tags.get("seed")))
    return StageResult("audit", "", "", path, False, tags={"model": model, "generator": model, **tags})


def test_sets_are_told_apart_by_the_seed_of_their_repeat():
    config = Config().replace({"analyze.seed": 100, "train_generator.seed": 7, "sample.ensemble": 2})
    results = [_audited("diffusion", seed=7), _audited("diffusion", seed=11), _audited("sent")]
    found = report._by_set(config, results, "audit", ["diffusion", "stylegan3", "sent"])
    assert found == {
        "diffusion": {"100": Path("diffusion/7"), "102": Path("diffusion/11")},
        "sent": {"all": Path("sent/None")},
    }
    shared = config.replace({"analyze.own_generators": False})
    assert report._by_set(shared, results[:1], "audit", ["diffusion"]) == {"diffusion": {"all": Path("diffusion/7")}}


@pytest.mark.parametrize("measure", ["evidence", "similarity"])
def test_the_closest_pairs_are_those_of_all_repeats_together(tmp_path, measure):
    """By the evidence of both stages, or by similarity where a single subject leaves no evidence."""
    rng = np.random.default_rng(0)
    tables = [pd.DataFrame({"similarity": rng.uniform(size=9)}) for _ in range(3)]
    for repeat, table in enumerate(tables):
        if measure == "evidence":
            table["evidence"] = rng.permutation(9) + repeat / 10
            table["search"] = "pose"
        (tmp_path / str(repeat)).mkdir()
        rows = table[measure].nlargest(6).index.to_numpy()
        images = np.broadcast_to((10 * repeat + rows)[:, None, None, None, None], (6, 2, 4, 8, 8)).astype(np.uint8)
        np.savez(tmp_path / str(repeat) / "pairs.npz", images=images, row=rows, lies_alike=rows % 2 == 0)
        table.to_csv(tmp_path / str(repeat) / "nearest.csv", index=False)
        table[:4].to_csv(tmp_path / str(repeat) / "null.csv", index=False)
    found = report._nearest([tmp_path / str(repeat) for repeat in range(3)])
    every = pd.concat(tables, keys=range(3))
    best = every.sort_values(measure, ascending=False)[:6]
    assert found.synthetic.tolist() == every["similarity"].tolist()
    assert found.null.tolist() == tables[0]["similarity"][:4].tolist()
    assert found.closest[best.columns].to_numpy().tolist() == best.to_numpy().tolist()
    assert found.closest["lies_alike"].tolist() == [row % 2 == 0 for _, row in best.index]
    assert found.pairs[:, 0, 0, 0, 0].tolist() == [10 * repeat + row for repeat, row in best.index]


def test_budgets_name_an_ensemble_where_there_is_one():
    config = Config()
    assert "ensemble" not in report._budgets(config)
    several = config.replace({"sample.ensemble": 4, "train_generator.seed": 10})
    assert report._budgets(several)["ensemble"] == "4 trainings a repeat, seeds 10 to 21"
    shared = several.replace({"analyze.own_generators": False})
    assert report._budgets(shared)["ensemble"] == "4 trainings a generator, seeds 10 to 13"
    assert report._budgets(shared)["repeats"] == "3 a cell, one generator"


def test_a_table_says_where_its_generators_saw_fewer_patients_than_the_real_arm():
    assert report._fewer_patients(Config()) == []
    few = Config().replace({"train_generator.subjects": 8})
    assert "trained on 8 of the training patients" in report._fewer_patients(few)[0]
    assert report._fewer_patients(few.replace({"analyze.model": ()})) == []


@pytest.mark.parametrize(
    ("given", "demo"),
    [
        ({"preset": "demo"}, True),
        ({"preset": "smoke"}, True),
        ({"preset": "cpu"}, False),
        ({"preset": "gpu"}, False),
        ({"preset": "brats2021"}, False),
        ({"preset": "demo", "train_generator.images": "1e6", "train_segmenter.images": "1e6"}, False),
        ({"preset": "gpu", "train_generator.images": "4000"}, True),
    ],
)
def test_small_budgets_are_called_a_demonstration_whatever_the_preset(given, demo):
    assert report.settings(parse("report", given))["demo"] is demo


def test_correlations_are_empty_without_fidelity_or_without_ratios():
    ratios = pd.DataFrame({"region": ["mean"]})
    assert report._correlations(Config(), {}, ratios).empty
    assert report._correlations(Config(), {"diffusion": {"0": {"values": {}}}}, ratios[:0]).empty


@pytest.mark.parametrize("missing", [None, 0.5])
def test_correlations_take_every_number_of_the_file(missing):
    setting = {"cohort": "phantom", "segmenter": "unet", "augmentation": "on", "arm": "synthetic", "region": "mean"}
    names = ["a", "b", "c", "d"]
    ratios = pd.DataFrame([setting | {"generator": name, "ratio": 0.2 * index} for index, name in enumerate(names)])
    numbers = {name: {"0": {"values": dict.fromkeys(FIDELITY, -index)}} for index, name in enumerate(names)}
    numbers["a"]["0"]["values"]["frechet"] = missing
    table = report._correlations(Config(), numbers, ratios).set_index("measure")
    assert set(table.index) == set(FIDELITY)
    assert table.loc["kernel", "rho"] == pytest.approx(-1)
    assert table.loc["frechet", "generators"] == (3 if missing is None else 4)


def test_a_cohort_counts_patients_of_whom_there_are_several_scans(tmp_path):
    spacing = {"a1": [5.0, 12, 12], "a2": [5.0, 12, 12], "b1": [5.0, 12, 12], "c": [5.0, 12.1, 12.1]}
    meta = {"kind": "real", "cohort": "clinic", "simulated": False, "spacing": spacing}
    images, labels = np.zeros((1, 4, 16, 16), np.uint8), np.zeros((1, 16, 16), np.uint8)
    with SliceWriter(tmp_path, 16, meta) as writer:
        for scan, patient, split in (
            ("a1", "a", "train"),
            ("a2", "a", "train"),
            ("b1", "b", "train"),
            ("c", "c", "test"),
        ):
            writer.append(images, labels, subject=scan, z=0, split=split, patient=patient)
    pd.DataFrame(columns=["subject"]).to_csv(tmp_path / "rejected.csv", index=False)
    facts = report.cohort_facts(tmp_path)
    assert facts.subjects == {"train": 2, "validation": 0, "test": 1}
    assert facts.slices == {"train": 3, "validation": 0, "test": 1}
    assert facts.field_of_view == 192
