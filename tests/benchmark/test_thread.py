"""The main job as a user runs it: `mlflow run` against a real tracking server, then what is left behind."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real `mlflow server` on a free port of the loopback interface."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///store.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_for(f"{uri}/health", folder / "log")
            yield uri
        finally:
            process.terminate()
            process.wait()


def _wait_for(address, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the tracking server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def call(server, tmp_path_factory):
    """call(stage, **keys): the stage through `python -m benchmark`, with one work folder for all tests here."""
    work = tmp_path_factory.mktemp("work")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def run(stage, *, check=True, **keys):
        keys = {"preset": "smoke", "work_dir": str(work), "json": "true", **keys}
        if stage == "benchmark":
            keys["out"] = work / "out"
        options = [part for key, value in keys.items() for part in (f"--{key}", str(value))]
        done = subprocess.run(
            [sys.executable, "-m", "benchmark", stage, *options],
            cwd=ROOT, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr[-4000:]
        return done

    run.work, run.environment = work, environment
    return run


def _line(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


def _line_within(done):
    """`mlflow run` may print a link of its own after the project's last line."""
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


@pytest.fixture(scope="module")
def table(call):
    """The whole table through `mlflow run`, as `make demo` calls it."""
    command = [BIN / "mlflow", "run", ".", "-e", "benchmark", "--env-manager", "local", "--experiment-name", "thread"]
    for key in ("preset=smoke", f"work_dir={call.work}", f"out={call.work / 'out'}", "json=true"):
        command += ["-P", key]
    done = subprocess.run(command, cwd=ROOT, env=call.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return _line_within(done)


@pytest.fixture
def client(server):
    return mlflow.MlflowClient(server)


def _runs(client, stage):
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, f"tags.stage = '{stage}'", max_results=100)


def test_the_table_ends_in_a_report(table, call):
    assert table["stage"] == "benchmark"
    assert table["status"] == "FINISHED"
    assert not table["reused"]
    report = Path(table["path"])
    assert "Passing this audit is not proof of anonymity." in (report / "index.html").read_text()
    assert {path.suffix for path in (report / "tables").iterdir()} == {".csv", ".md", ".tex"}
    assert list((report / "figures").glob("*.png"))
    assert (call.work / "out" / "index.html").read_bytes() == (report / "index.html").read_bytes()


def test_the_called_run_is_the_one_that_mlflow_run_made_and_holds_the_others(table, client):
    called = client.get_run(table["run_id"])
    assert called.info.status == "FINISHED"
    assert called.data.tags["mlflow.project.entryPoint"] == "benchmark"
    for stage in ("prepare", "train_generator", "sample", "train_segmenter", "evaluate", "audit", "analyze", "report"):
        runs = _runs(client, stage)
        assert runs, stage
        assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {table["run_id"]}, stage
        assert {run.info.status for run in runs} == {"FINISHED"}, stage
    assert len(_runs(client, "evaluate")) == 5  # real; synthetic and both for two generators


def test_a_training_run_carries_configuration_curves_weights_pictures_and_lineage(table, client):
    by_model = {run.data.tags["model"]: run for run in _runs(client, "train_generator")}
    assert set(by_model) == {"stylegan3", "diffusion"}
    run = by_model["stylegan3"]
    assert run.data.params["cfg.images"] == "64"
    assert run.data.params["cfg.stylegan3.channel_base"] == "128"
    assert {"stage", "model", "cohort", "seed", "fingerprint", "commit", "parent.prepare"} <= set(run.data.tags)
    (prepared,) = _runs(client, "prepare")
    assert run.data.tags["parent.prepare"] == prepared.info.run_id
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs]
    curve = client.get_metric_history(run.info.run_id, "images_per_second")
    assert [point.step for point in curve] == list(range(8, 65, 8))
    assert [file.path for file in client.list_artifacts(run.info.run_id, "checkpoints")] == [
        "checkpoints/weights.safetensors"
    ]
    assert len(client.list_artifacts(run.info.run_id, "snapshots")) == 2


def test_scores_and_samples_reach_the_server(table, client):
    for run in _runs(client, "evaluate"):
        assert "scores.csv" in [file.path for file in client.list_artifacts(run.info.run_id)]
        assert 0 <= run.data.metrics["dice"] <= 1
    for run in _runs(client, "sample"):
        assert len(client.list_artifacts(run.info.run_id, "samples")) == 2


def test_every_number_of_the_report_comes_from_the_long_table(table):
    scores = pd.read_csv(Path(table["path"]) / "tables" / "scores.csv")
    assert list(scores.columns[:10]) == [
        "cohort", "generator", "arm", "segmenter", "augmentation", "seed", "subject", "region", "metric", "value",
    ]  # fmt: skip
    assert scores["value"].notna().all()
    assert set(scores["arm"]) == {"real", "synthetic", "both"}
    assert scores["subject"].nunique() == 3


def test_a_second_call_reuses_every_stage(table, call, client):
    again = _line(call("benchmark"))
    assert again["reused"]
    assert again["path"] == table["path"]
    assert len(_runs(client, "evaluate")) == 5


def test_mlflow_run_of_a_finished_stage_leaves_a_marked_run_that_searches_skip(table, call, client):
    command = [BIN / "mlflow", "run", ".", "-e", "train_generator", "-P", "model=stylegan3", "--env-manager", "local"]
    for key in ("preset=smoke", f"work_dir={call.work}", "json=true"):
        command += ["-P", key]
    done = subprocess.run(command, cwd=ROOT, env=call.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    result = _line_within(done)
    assert result["reused"]
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (marked,) = client.search_runs(experiments, f"tags.reused_from = '{result['run_id']}'")
    assert marked.info.run_id != result["run_id"]
    assert "fingerprint" not in marked.data.tags


def test_a_stage_whose_files_were_touched_runs_again(table, call):
    first = _line(call("evaluate"))
    assert first["reused"]
    (Path(first["path"]) / "scores.csv").write_text("tampered")
    second = _line(call("evaluate"))
    assert not second["reused"]
    assert second["run_id"] != first["run_id"]
    assert second["dice"] == pytest.approx(first["dice"])


def test_a_folder_without_a_finished_run_is_never_reused(table, call, client):
    first = _line(call("evaluate"))
    client.set_terminated(first["run_id"], "FAILED")
    again = _line(call("evaluate"))
    assert not again["reused"]


def test_a_change_of_one_key_gives_another_fingerprint_and_leaves_parents_alone(table, call):
    other = _line(call("train_segmenter", seed="1"))
    assert not other["reused"]
    assert Path(other["path"]) != Path(_line(call("train_segmenter"))["path"])
    assert _line(call("prepare"))["reused"]


def test_a_synthetic_set_can_be_any_folder_of_slices(table, call):
    made = _line(call("sample"))
    folder = shutil.copytree(made["path"], call.work / "sent by somebody")
    trained = _line(call("train_segmenter", train_on="synthetic", synthetic=folder))
    assert trained["training_slices"] == 48
    audited = _line(call("audit", synthetic=folder))
    assert set(audited["memorized_share"]) == {"tau95", "tau99"}


def test_a_set_of_another_size_fails_its_cells_while_the_others_go_on(table, call, client):
    made = _line(call("sample"))
    folder = shutil.copytree(made["path"], call.work / "other-size")
    for name, shape in (("images", (48, 4, 8, 8)), ("labels", (48, 8, 8))):
        np.save(folder / f"{name}.npy", np.zeros(shape, np.uint8))
    done = call("benchmark", synthetic=folder, train_on="synthetic", model="stylegan3", check=False)
    assert done.returncode == 1
    result = _line(done)
    assert result["status"] == "FAILED"
    page = (Path(result["path"]) / "index.html").read_text()
    assert "other-size" in page
    assert "image_size=8" in page


def test_a_killed_stage_is_closed_and_finished_by_the_next_call(call, client):
    keys = {"model": "diffusion", "train_generator.seed": "11", "checkpoint_seconds": "0", "images": "4000"}
    options = [part for key, value in keys.items() for part in (f"--{key}", value)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "train_generator", "--preset", "smoke", "--work_dir", call.work, *options],
        cwd=ROOT, env=call.environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (
        killed := [run for run in _runs(client, "train_generator") if run.data.tags.get("seed") == "11"]
    ) or not list(Path(killed[0].data.tags["path"]).glob("checkpoints/*.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert client.get_run(killed[0].info.run_id).info.status == "RUNNING"

    options = {**keys, "images": "4000"}
    finished = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "train_generator", "--preset", "smoke", "--work_dir", call.work]
        + [part for key, value in options.items() for part in (f"--{key}", value)],
        cwd=ROOT, env=call.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while client.get_run(killed[0].info.run_id).info.status == "RUNNING":
        assert finished.poll() is None, finished.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    finished.terminate()  # as a cluster would: the run ends as KILLED, ready to resume
    assert finished.wait() == 130
    assert "goes on from the last checkpoint" in finished.stderr.read()
    statuses = [run.info.status for run in _runs(client, "train_generator") if run.data.tags.get("seed") == "11"]
    assert statuses == ["KILLED", "KILLED"]


def test_a_cohort_that_is_not_there_is_one_line_and_no_run(call, client):
    before = len(_runs(client, "prepare"))
    done = call("prepare", data="no/such/folder", check=False)
    assert done.returncode == 1
    assert "no/such/folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(_runs(client, "prepare")) == before
