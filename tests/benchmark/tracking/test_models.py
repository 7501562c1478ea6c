"""Logged models: made once whatever happens, scored by other runs, the best one named, served without this project."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from safetensors.torch import save_file

import generators
import segmenters
from benchmark.errors import UserError
from benchmark.tracking import models
from benchmark.tracking.delivery import sync
from benchmark.tracking.journal import Journal
from benchmark.tracking.package import package
from benchmark.tracking.runs import StageRun
from benchmark.tracking.session import Session
from segmenters.base import normalize

COHORT = ("phantom", "0123456789abcdef" * 4)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        patch.chdir(folder)  # artifacts
        patch.setattr("benchmark.tracking.store.PATIENCE", 5)
        yield Session.begin(folder / "work")


@pytest.fixture(scope="module")
def client(session):
    """Knows the store by its address alone."""
    return mlflow.MlflowClient(session.store.uri)


def _train(run, folder, dice, name="kind", cohort=COHORT):
    """Logs what a training logs of its model."""
    folder.mkdir(exist_ok=True)
    files = [(folder / "weights.safetensors", "data"), (folder / "MLmodel", None)]
    for path, _ in files:
        path.write_text(path.name)
    tags = {"registered_name": name, "cohort_digest": cohort[1]}
    run.log_model("gan % seed 0", "generator", files, {"images": 64, "gan": {"widths": [1, 2]}}, **tags)
    run.log_scores({"kept": dice, "share": {"tau95": 0.5}, "device": "CPU"}, run.run_id, cohort)
    run.end_model(name, "kept", "the highest kept")


def _models(client, name):
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_logged_models(experiments, f"tags.registered_name = '{name}'")


def _scores(model):
    return sorted((point.key, point.value, point.dataset_name, point.dataset_digest) for point in model.metrics)


def test_what_is_measured_later_hangs_on_the_model_and_its_data_set(session, client, tmp_path):
    with session.open_run("train", {}, {}) as trained:
        _train(trained, tmp_path / "training", 0.25, "measured")
        trained.log_summary({"kept": 0.25, "stage_seconds": 2})
    with session.open_run("sample", {}, {}) as sampled:
        sampled.log_model_read(trained.run_id)
    with session.open_run("audit", {}, {}) as audited:
        audited.log_model_read(sampled.run_id)
        audited.log_scores({"copied": 0.125}, sampled.run_id, COHORT)

    (model,) = _models(client, "measured")
    digest = COHORT[1][:16]
    assert _scores(model) == [
        ("copied", 0.125, "phantom", digest),
        ("kept", 0.25, "phantom", digest),
        ("share.tau95", 0.5, "phantom", digest),
    ]
    assert (model.name, model.model_type, model.status) == ("gan - seed 0", "generator", "READY")
    assert model.params == {"images": "64", "gan.widths": "[1, 2]"}
    assert model.source_run_id == trained.run_id
    ended = client.get_run(trained.run_id)
    assert [output.model_id for output in ended.outputs.model_outputs] == [model.model_id]
    assert ended.data.metrics == {"kept": 0.25, "share.tau95": 0.5, "stage_seconds": 2}
    assert len(client.get_metric_history(trained.run_id, "kept")) == 1
    for run in (sampled, audited):
        assert [read.model_id for read in client.get_run(run.run_id).inputs.model_inputs] == [model.model_id]
    assert client.get_run(audited.run_id).data.metrics == {"copied": 0.125}
    location = Path(model.artifact_location)
    assert (location / "data" / "weights.safetensors").read_text() == "weights.safetensors"
    assert (location / "MLmodel").is_file()


def test_a_set_from_several_trainings_is_no_single_models(session, client, tmp_path):
    runs = []
    for number in range(2):
        with session.open_run("train", {}, {}) as trained:
            _train(trained, tmp_path / str(number), 0.5, "ensemble")
        runs.append(trained.run_id)
    with session.open_run("sample", {}, {}) as sampled:
        for run in runs:
            sampled.log_model_read(run)
    with session.open_run("audit", {}, {}) as audited:
        audited.log_scores({"copied": 0.125}, sampled.run_id, COHORT)
    assert client.get_run(audited.run_id).data.metrics == {"copied": 0.125}
    assert all("copied" not in {point.key for point in model.metrics} for model in _models(client, "ensemble"))


def test_a_kill_after_any_entry_makes_nothing_twice(session, client, tmp_path, monkeypatch):
    """Each entry is sent, its delivery is killed before that was noted, and it is sent again."""
    store, sent, note = session.store, set(), Journal.mark_delivered

    class Killed(BaseException):
        pass

    def kill_once(journal, end):
        if end not in sent:
            sent.add(end)
            raise Killed
        note(journal, end)

    run_id = client.create_run(store.experiment).info.run_id
    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "_keep_delivering", lambda run: None)
        run = StageRun(store, run_id)
        _train(run, tmp_path / "training", 0.75, "killed")
        run._journal.close()  # as a kill does
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "mark_delivered", kill_once)
        for _ in range(6):
            with pytest.raises(Killed):
                sync(store.work_dir)
        assert sync(store.work_dir)["delivered"] == [run_id]

    (model,) = _models(client, "killed")
    assert model.status == "READY"
    assert [value for _, value, *_ in _scores(model)] == [0.75, 0.5]
    ended = client.get_run(run_id)
    assert ended.info.status == "KILLED"
    assert [output.model_id for output in ended.outputs.model_outputs] == [model.model_id]
    assert [version.run_id for version in client.search_model_versions("name = 'killed'")] == [run_id]


def test_the_champion_is_the_best_on_the_same_cohort_and_the_first_of_equals(session, client, tmp_path):
    def train(dice, cohort=COHORT):
        with session.open_run("train", {}, {}) as run:
            _train(run, tmp_path / "training", dice, "crowned", cohort)
        return run.run_id

    def champion():
        return client.get_model_version_by_alias("crowned", "champion").run_id

    first = train(0.25)
    assert champion() == first
    best = train(0.5)
    assert champion() == best
    for dice in (0.5, 0.125):
        train(dice)
        assert champion() == best
    assert len(client.search_model_versions("name = 'crowned'")) == 2  # only champions have one
    other = train(0.0625, ("other", "f" * 64))  # whose numbers compare with nobody's
    assert champion() == other


def test_a_model_that_lost_a_file_is_no_champion(session, client, tmp_path, monkeypatch):
    opened = session.open_run("train", {}, {})
    run = opened.__enter__()
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.tracking.delivery._altered", lambda artifact: "MLmodel is gone since it was logged")
        _train(run, tmp_path / "training", 1, "lossy")
        with pytest.raises(UserError, match="gone since"):
            opened.__exit__(None, None, None)
    assert [model.status for model in _models(client, "lossy")] == ["FAILED"]
    assert client.search_model_versions("name = 'lossy'") == []


def test_a_store_without_logged_models_keeps_files_and_scores_with_the_run(
    session, client, tmp_path, monkeypatch, caplog
):
    def unknown(*args, **kwargs):
        raise MlflowException("API request failed with error code 404", ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(mlflow.MlflowClient, "search_logged_models", unknown)
    models._warn_once.cache_clear()
    for number in range(2):
        with session.open_run("train", {}, {}) as run:
            _train(run, tmp_path / str(number), 1, "old")
        ended = client.get_run(run.run_id)
        assert (ended.info.status, ended.data.metrics["kept"]) == ("FINISHED", 1)
        assert (Path(ended.info.artifact_uri) / "model" / "data" / "weights.safetensors").is_file()
    assert caplog.text.count("knows no logged models") == 1


SERVE = """
import json, sys
import mlflow, numpy as np
generator, segmenter = (mlflow.pyfunc.load_model(folder) for folder in sys.argv[1:])
made = generator.predict(np.array([3, 4]))
found = segmenter.predict(made[:, :4])
print(json.dumps([made.tolist(), found.tolist()]))
"""


def test_a_packaged_model_gives_what_the_trained_one_gives_without_this_project(tmp_path):
    torch.manual_seed(0)
    small = {"channel_base": 128, "channel_max": 8, "mapping_layers": 2}
    generator = generators.create("stylegan2", 5, 16, **small)
    segmenter = segmenters.create("unet", 4, 4, 16, widths=[8, 16, 16])
    folders = []
    for model, name, facts in (
        (generator, "stylegan2", {"annotation": "values"}),
        (segmenter, "unet", {"classes": 4}),
    ):
        trained = tmp_path / name
        trained.mkdir()
        save_file(model.weights(), trained / "weights.safetensors")
        config = model.config.model_dump(mode="json")
        files = package(trained, {"name": name, "channels": model.channels, "resolution": 16, "config": config} | facts)
        logged = tmp_path / "logged" / name
        for path, folder in files:
            (logged / (folder or "")).mkdir(parents=True, exist_ok=True)
            (logged / (folder or "") / path.name).write_bytes(path.read_bytes())
        folders.append(str(logged))
    alone = [sys.executable, "-I", "-c", SERVE, *folders]
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    made, found = map(np.array, json.loads(done.stdout.splitlines()[-1]))

    drawn = generator.sample([3, 4]).numpy()
    assert np.abs(made[:, :4] - (drawn[:, :4] + 1) * 127.5).max() <= 1
    assert set(np.unique(made[:, 4])) <= {0, 1, 2, 3}
    images = torch.from_numpy(made[:, :4].astype(np.float32))
    assert np.array_equal(found, segmenter.predict(normalize(images.to(torch.uint8))).argmax(1).numpy())
    assert not list(Path(folders[0]).rglob("*.pkl"))
