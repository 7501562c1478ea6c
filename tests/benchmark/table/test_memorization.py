"""The experiment on when generators begin to copy: a whole tiny one, gone on with, and what it refuses."""

import shutil

import mlflow
import pandas as pd
import pytest

from benchmark.__main__ import main
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import fingerprint
from benchmark.table.memorization import jobs, memorization


@pytest.fixture(scope="module")
def work(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memorization")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        yield folder


def configured(work, **keys):
    given = {"work_dir": work / "work", "out": work / "out", "model": "diffusion", "repeats": 1, "judge_images": 16}
    given = {"preset": "smoke", "subjects": "2,3", **given, **keys}
    return parse("memorization", {key: str(value) for key, value in given.items()})


@pytest.fixture(scope="module")
def first(work):
    return memorization(configured(work))


def test_it_leaves_a_page_tables_figures_and_numbers(first, work):
    assert first.status == "FINISHED"
    page = (work / "out/memorization/index.html").read_text()
    assert "is not known: there are 3 test patients, and the null needs 6" in page
    assert "Simulated phantom cohort" in page
    assert page == (first.path / "index.html").read_text()
    snapshots = pd.read_csv(first.path / "tables/memorization_snapshots.csv")
    assert list(snapshots["subjects"]) == [2, 2, 3, 3]
    for column in ("memorized_share", "copied_share"):  # against a null of test patients
        assert snapshots[f"test_{column}"].between(0, 1).all()
    assert snapshots.groupby("subjects")["test_dice"].last().notna().all()
    assert set(first.headline["diffusion"]["copied_share"]) == {"2", "3"}
    run = mlflow.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["diffusion.copied_share.3"] == first.headline["diffusion"]["copied_share"]["3"]
    stored = {file.path for file in mlflow.MlflowClient().list_artifacts(first.run_id, "memorization/figures")}
    assert stored == {f"memorization/figures/memorization_{name}.svg" for name in ("measures", "onset")}


def test_one_more_number_of_patients_trains_only_what_is_missing(first, work, capsys):
    again = memorization(configured(work, subjects="2,3,4"))
    board = pd.read_csv(again.path / "jobs.csv")
    made = board[~board["reused"].astype(bool)]
    assert sorted(made["job"]) == [
        "snapshots diffusion 4 subjects seed 0",
        "train_generator diffusion 4 subjects seed 0",
    ]
    snapshots = pd.read_csv(again.path / "tables/memorization_snapshots.csv")
    assert sorted(snapshots["subjects"].unique()) == [2, 3, 4]
    capsys.readouterr()
    plan = memorization(configured(work, subjects="2,3,4", dry_run=True))
    assert plan.summary()["runs"]["left"] == 0


def test_more_patients_than_there_are_are_refused_before_anything_is_trained(first, work):
    with pytest.raises(UserError, match=r"subjects: 64 patients were asked for, but phantom has 7 for training"):
        memorization(configured(work, subjects="5,64"))
    trained = mlflow.search_runs(search_all_experiments=True, filter_string="tags.subjects = '5'")
    assert trained.empty


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["--subjects", "16,8"], "subjects must ascend"),
        (["--subjects", "8,8"], "subjects must ascend"),
        (["--subjects", "1,8"], "greater than or equal to 2"),
        (["--subjects", ""], "subjects is empty"),
        (["--subjects", "8,many"], "valid integer"),
        (["--model", "diffusion,diffusion"], "names a generator twice"),
        (["--model", "unet"], "is not one of"),
        (["--repeats", "0"], "greater than or equal to 1"),
        (["--train_generator.subjects", "8"], "unknown key 'train_generator.subjects'"),
        (["--stop_when_copied"], "unknown key 'stop_when_copied'"),
    ],
)
def test_a_wrong_call_is_refused_by_its_key(keys, said, capsys):
    assert main(["memorization", "--preset", "smoke", *keys]) == 2
    assert said in capsys.readouterr().err


def test_each_training_is_one_that_a_call_for_it_alone_would_take_up():
    planned = jobs(parse("memorization", {"preset": "smoke", "model": "diffusion", "subjects": "2,4", "repeats": "2"}))
    trained = [job.fingerprint for job in planned if job.stage == "train_generator"]
    assert len(set(trained)) == 4
    keys = {"preset": "smoke", "model": "diffusion", "keep_snapshots": "true", "subjects": "4"}
    alone = parse("train_generator", {**keys, "train_generator.seed": "1"})
    assert fingerprint("train_generator", alone) == trained[-1]


def test_the_preset_plans_every_model_number_of_patients_and_repeat(tmp_path):
    given = {"preset": "memorization", "dry_run": True, "work_dir": str(tmp_path), "json": True}
    config = parse("memorization", {**given, "subjects": "8,16,32,64,128", "repeats": "3"})
    assert memorization(config).summary()["cells"] == 2 * 5 * 3
