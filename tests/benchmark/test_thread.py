"""The main job as a user runs it: `mlflow run` against a real tracking server, then what is left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmark.data.annotation import CODES
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import sample
from benchmark.table.run import call as call_stage
from benchmark.training import models, sampling

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory, free_port):
    """A real `mlflow server` on a free port of the loopback interface."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
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
def work(tmp_path_factory):
    """One work folder for all tests here."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def environment(server):
    return {**os.environ, "MLFLOW_TRACKING_URI": server, "PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def call(server, work):
    """call(stage, **keys): what `python -m benchmark` does, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server)
        mlflow.set_tracking_uri(server)

        def run(stage, **keys):
            keys = {"preset": "smoke", "work_dir": str(work), **{key: str(value) for key, value in keys.items()}}
            return call_stage(stage, parse(stage, keys))

        yield run


def _mlflow_run(environment, work, entry, *keys):
    """`mlflow run . -e ENTRY -P key=value …` as a user types it; its JSON line."""
    command = [BIN / "mlflow", "run", ".", "-e", entry, "--env-manager", "local", "--experiment-name", "thread"]
    for key in ("preset=smoke", f"work_dir={work}", "json=true", *keys):
        command += ["-P", key]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    # `mlflow run` may print a link of its own after the project's last line
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


@pytest.fixture(scope="module")
def table(environment, work):
    """The whole table, as `make demo` calls it; its slices are prepared by two processes."""
    return _mlflow_run(environment, work, "benchmark", "workers=2", f"out={work / 'out'}")


@pytest.fixture
def client(server):
    return mlflow.MlflowClient(server)


def _runs(client, stage):
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, f"tags.stage = '{stage}'", max_results=100)


def test_the_table_ends_in_a_report(table, work):
    assert table["stage"] == "benchmark"
    assert table["status"] == "FINISHED"
    assert not table["reused"]
    report = Path(table["path"])
    assert "Passing this audit is not proof of anonymity." in (report / "index.html").read_text()
    assert {path.suffix for path in (report / "tables").iterdir()} == {".csv", ".md", ".tex"}
    assert list((report / "figures").glob("*.png"))
    cards = sorted((report / "cards").iterdir())
    assert {path.suffix for path in cards} == {".html", ".pdf"}
    assert "Phantom_" not in "".join(path.read_text() for path in cards if path.suffix == ".html")  # nobody is named
    assert (work / "out" / "index.html").read_bytes() == (report / "index.html").read_bytes()


def test_the_report_leads_to_the_card_of_what_was_read(table, client, work):
    (prepared,) = _runs(client, "prepare")
    assert "cohort.html" in [file.path for file in client.list_artifacts(prepared.info.run_id)]
    card = (Path(prepared.data.tags["path"]) / "cohort.html").read_text()
    assert "none is a patient" in card
    assert 'href="cohort.html"' in (work / "out" / "index.html").read_text()
    assert (work / "out" / "cohort.html").read_text() == card


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_the_screen(table, tmp_path, width):
    page = (Path(table["path"]) / "index.html").as_uri()
    measure = "document.title = this.contentDocument.documentElement.scrollWidth"
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="{page}" width="{width}" height="800" frameborder="0" onload="{measure}"></iframe>')
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", frame.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert 0 < int(re.search(r"<title>(\d+)</title>", dumped)[1]) <= width


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
    (output,) = client.get_run(run.info.run_id).outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.status, model.model_type) == ("READY", "generator")
    stored = f"{model.artifact_location}/data/weights.safetensors"
    weights = Path(mlflow.artifacts.download_artifacts(stored, tracking_uri=client.tracking_uri))
    assert weights.read_bytes() == (Path(run.data.tags["path"]) / "weights.safetensors").read_bytes()
    assert len(client.list_artifacts(run.info.run_id, "snapshots")) == 2


def test_a_cell_is_a_row_with_what_it_keeps_risks_and_costs_and_the_table_says_what_came_out(table, client):
    headline = {
        (run.data.tags["stage"], run.data.tags["model"]): run
        for stage in ("audit", "attack", "train_generator")
        for run in _runs(client, stage)
    }
    (analyzed,) = _runs(client, "analyze")
    ratios = pd.read_csv(Path(analyzed.data.tags["path"]) / "ratios.csv")
    cells = {(run.data.tags["arm"], run.data.tags["generator"]): run for run in _runs(client, "cell")}
    assert len(cells) == 5
    assert cells["real", "none"].data.metrics["ratio"] == 1
    for (arm, generator), run in cells.items():
        assert run.data.tags["mlflow.parentRunId"] == table["run_id"]
        if arm == "real":
            continue
        found = run.data.metrics
        row = ratios.query("arm == @arm and generator == @generator and region == 'mean'").iloc[0]
        assert found["ratio"] == pytest.approx(row["ratio"], abs=1e-4)
        assert ("ratio_low" in found) == pd.notna(row["low"])  # one repeat gives no interval
        copied = headline["audit", generator].data.metrics["copied_share.tau95"]
        assert found["copied_share"] == pytest.approx(copied, abs=1e-4)
        attacked = headline["attack", generator].data.metrics["auc.ratio"]
        assert found["attack_auc"] == pytest.approx(attacked, abs=1e-4)
        segmenter = next(r for r in _runs(client, "train_segmenter") if r.data.tags["arm"] == f"{arm} {generator}")
        both = headline["train_generator", generator].data.metrics["seconds"] + segmenter.data.metrics["seconds"]
        assert found["train_seconds"] == pytest.approx(both, abs=1e-4)
    said = client.get_run(table["run_id"]).data.tags["mlflow.note.content"]
    assert "Synthetic images alone keep" in said
    assert "report/figures/forest" in said
    assert {"report/figures/forest_phantom_unet.svg", "report/figures/samples_stylegan3.png"} <= {
        file.path for file in client.list_artifacts(table["run_id"], "report/figures")
    }


def test_every_number_of_a_model_hangs_on_it_and_the_best_training_has_a_name(table, client):
    (evaluated,) = (run for run in _runs(client, "evaluate") if run.data.tags["arm"] == "both stylegan3")
    (audited,) = (run for run in _runs(client, "audit") if run.data.tags["model"] == "stylegan3")
    for run, stage, keys in (
        (evaluated, "train_segmenter", {"dice", "best_validation_dice"}),
        (audited, "train_generator", {"kept_judge_dice", "copied_share.tau95", "kernel", "auc.ratio"}),
    ):
        (read,) = client.get_run(run.info.run_id).inputs.model_inputs
        model = client.get_logged_model(read.model_id)
        assert (model.tags["stage"], model.status) == (stage, "READY")
        assert keys <= {point.key for point in model.metrics}
        assert {point.dataset_name for point in model.metrics} == {"phantom"}
    champion = client.get_model_version_by_alias("stand-in-stylegan3-phantom-16px", "champion")
    assert champion.run_id == model.source_run_id


def test_scores_and_samples_reach_the_server(table, client):
    evaluated, sampled = _runs(client, "evaluate"), _runs(client, "sample")
    assert (len(evaluated), len(sampled)) == (5, 2)
    for run in evaluated:
        assert "scores.csv" in [file.path for file in client.list_artifacts(run.info.run_id)]
        assert 0 <= run.data.metrics["dice"] <= 1
    for run in sampled:
        assert len(client.list_artifacts(run.info.run_id, "samples")) == 2


def test_every_number_of_the_report_comes_from_the_long_table(table):
    scores = pd.read_csv(Path(table["path"]) / "tables" / "scores.csv")
    assert list(scores.columns[:13]) == [
        "cohort", "generator", "arm", "segmenter", "augmentation", "seed", "real_subjects", "synthetic_share",
        "patient", "subject", "region", "metric", "value",
    ]  # fmt: skip
    assert scores["value"].notna().all()
    assert set(scores["arm"]) == {"real", "synthetic", "both"}
    assert scores["subject"].nunique() == 3


def test_a_second_call_reuses_every_stage(table, call, client, work):
    again = call("benchmark", out=work / "out")
    assert again.reused
    assert again.path == Path(table["path"])
    assert len(_runs(client, "evaluate")) == 5


def test_a_table_closes_the_run_of_a_killed_one(table, call, client, work):
    killed = client.create_run("0", run_name="benchmark").info.run_id
    (work / "tracking" / f"{killed}.jsonl").write_text('["tag", ["stage", "benchmark"]]\n')
    call("benchmark", out=work / "out")
    run = client.get_run(killed)
    assert (run.info.status, run.data.tags["stage"]) == ("KILLED", "benchmark")


def test_mlflow_run_of_a_finished_stage_leaves_a_marked_run_that_searches_skip(table, environment, work, client):
    result = _mlflow_run(environment, work, "train_generator", "model=stylegan3")
    assert result["reused"]
    assert result["status"] == "FINISHED"
    assert {"stage", "run_id", "path", "images_per_second"} <= set(result)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (marked,) = client.search_runs(experiments, f"tags.reused_from = '{result['run_id']}'")
    assert marked.info.run_id != result["run_id"]
    assert "fingerprint" not in marked.data.tags


def test_a_stage_whose_files_were_touched_runs_again(table, call):
    first = call("evaluate")
    assert first.reused
    (first.path / "scores.csv").write_text("tampered")
    second = call("evaluate")
    assert not second.reused
    assert second.run_id != first.run_id
    assert second.headline["dice"] == pytest.approx(first.headline["dice"])


def test_a_folder_without_a_finished_run_is_never_reused_and_says_why(table, call, client, caplog):
    first = call("evaluate")
    fingerprint = client.get_run(first.run_id).data.tags["fingerprint"]
    for run in _runs(client, "evaluate"):
        if run.data.tags["fingerprint"] == fingerprint:
            client.set_terminated(run.info.run_id, "FAILED")
    again = call("evaluate")
    assert not again.reused
    assert re.search(r"the tracking store .* knows no finished run of it", caplog.text)


def test_a_change_of_one_key_gives_another_fingerprint_and_leaves_parents_alone(table, call):
    other = call("train_segmenter", seed=1)
    assert not other.reused
    assert other.path != call("train_segmenter").path
    assert call("prepare").reused


def test_a_synthetic_set_can_be_any_folder_of_slices(table, call, client, work):
    folder = shutil.copytree(call("sample").path, work / "sent by somebody")
    trained = call("train_segmenter", train_on="synthetic", synthetic=folder)
    assert trained.headline["training_slices"] == 48
    assert client.get_run(trained.run_id).data.tags["generator"] == "sent by somebody"
    assert set(call("audit", synthetic=folder).headline["memorized_share"]) == {"tau95", "tau99"}


def test_a_set_of_another_size_fails_its_cells_while_the_others_go_on(table, call, work):
    folder = shutil.copytree(call("sample").path, work / "other-size")
    for name, shape in (("images", (48, 4, 8, 8)), ("labels", (48, 8, 8))):
        np.save(folder / f"{name}.npy", np.zeros(shape, np.uint8))
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"image_size": 8}))
    result = call("benchmark", synthetic=folder, train_on="synthetic", model="stylegan3", out=work / "out2")
    assert result.status == "FAILED"
    page = (result.path / "index.html").read_text()
    assert "other-size" in page
    assert "image_size=8" in page


def test_a_killed_stage_is_closed_and_finished_by_the_next_call(environment, work, client):
    command = [sys.executable, "-m", "benchmark", "train_generator", "--preset", "smoke", "--work_dir", str(work)]
    command += ["--model", "diffusion", "--seed", "11", "--checkpoint_seconds", "0", "--images", "40000"]

    def runs(status):
        return [
            run
            for run in _runs(client, "train_generator")
            if run.data.tags.get("seed") == "11" and run.info.status == status
        ]

    def wait_until(condition, process):
        deadline = time.monotonic() + 120
        while not condition():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def checkpoints():
        return {path for run in runs("RUNNING") for path in Path(run.data.tags["path"]).glob("checkpoints/*.pt")}

    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as killed:
        wait_until(checkpoints, killed)
        killed.kill()
    assert len(runs("RUNNING")) == 1  # nobody was left to say that it ended
    last = max(checkpoints())

    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as stopped:
        wait_until(lambda: runs("KILLED") and checkpoints() and min(checkpoints()) > last, stopped)
        stopped.terminate()  # as a cluster does
        assert stopped.wait() == 130
        assert "goes on from the last checkpoint" in stopped.stderr.read()
    assert len(runs("KILLED")) == 2
    (resumed,) = [run for run in runs("KILLED") if "error" in run.data.tags]
    curve = client.get_metric_history(resumed.info.run_id, "loss")
    assert [point.step for point in curve] == sorted({point.step for point in curve})


def test_a_cohort_that_is_not_there_is_one_line_and_no_run(environment, work, client):
    before = len(_runs(client, "prepare"))
    command = [sys.executable, "-m", "benchmark", "prepare", "--data", "no/such/folder", "--work_dir", str(work)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no/such/folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(_runs(client, "prepare")) == before


def test_an_interrupted_sampling_goes_on_to_the_same_bytes(table, call, client, monkeypatch):
    monkeypatch.setattr(sampling, "DRAW_BATCH", 8)
    batches = []

    def interrupted(model, seeds, coding):
        batches.append(seeds)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return models.draw(model, seeds, coding)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call("sample", samples=36, seed=5)
    resumed = call("sample", samples=36, seed=5)
    names = ("images.npy", "labels.npy", "index.parquet")
    bytes_resumed = [(resumed.path / name).read_bytes() for name in names]

    client.set_terminated(resumed.run_id, "FAILED")
    shutil.rmtree(resumed.path)
    monkeypatch.setattr(sample, "pick_devices", lambda name: [torch.device("cpu")] * 2)  # side by side
    whole = call("sample", samples=36, seed=5)
    assert not whole.reused
    assert [(whole.path / name).read_bytes() for name in names] == bytes_resumed


def test_an_ensemble_mixes_its_generators_sample_by_sample(table, call):
    one, other = call("sample"), call("sample", **{"train_generator.seed": 1})
    mixed = SliceSet.open(call("sample", ensemble=2).path)
    assert len(mixed) == 48
    for member, alone in enumerate((one, other)):
        images = SliceSet.open(alone.path).images
        assert np.abs(mixed.images[member::2].astype(int) - images[member::2]).max() <= 1  # batches differ in size


def test_fidelity_has_a_floor_and_curves_stand_side_by_side(table, call, client):
    found = call("fidelity").headline
    assert found["kernel_floor"] < found["kernel"]
    trained = next(run for run in _runs(client, "train_generator") if run.data.tags["model"] == "stylegan3")
    for metric in ("judge_dice", "kernel_distance", "memorized_share", "copied_share", "gradient_norm_discriminator"):
        assert len(client.get_metric_history(trained.info.run_id, metric)) >= 2, metric
    curve = pd.read_csv(next(Path(trained.data.tags["path"]).glob("curve.csv")))
    kept = curve.loc[curve["kept"]]
    assert kept["judge_dice"].item() == curve["judge_dice"].max()


def test_the_last_snapshot_is_what_training_ended_with(table, call):
    trained = call("train_segmenter", train_on="synthetic")
    newest = max((trained.path / "checkpoints").glob("*.pt"))
    model = models.create_segmenter(parse("evaluate", {"preset": "smoke"}), 16)
    model.load_state_dict(torch.load(newest, weights_only=True)["model"])
    last = load_file(trained.path / "last.safetensors")
    assert all(torch.equal(last[name], weight) for name, weight in model.weights().items())
    assert not (call("train_segmenter").path / "last.safetensors").exists()  # a real arm has annotated patients

    evaluated = call("evaluate", train_on="synthetic", snapshot="last")
    assert set(pd.read_csv(evaluated.path / "scores.csv")["arm"]) == {"synthetic_last"}
    for refused, words in (({"train_on": "both"}, "is for train_on=synthetic"), ({"patience": "2"}, "patience=0")):
        with pytest.raises(UserError, match=words):
            call("evaluate", **{"train_on": "synthetic", **refused}, snapshot="last")


def test_arms_differ_in_what_they_are_trained_on(table, call):
    real, synthetic = call("train_segmenter"), call("train_segmenter", train_on="synthetic")
    both = call("train_segmenter", train_on="both")
    count = [result.headline["training_slices"] for result in (real, synthetic, both)]
    assert count[2] == count[0] + count[1]
    pretrained = call("train_segmenter", train_on="pretrain")
    assert pretrained.headline["images"] == real.headline["images"]  # its control sees as many
    assert pretrained.headline["best_at_images"] > pretrained.headline["images"] / 2  # real slices have been seen
    half = call("train_segmenter", train_on="both", real_subjects=0.5, synthetic_share=0.25)
    assert count[1] / 4 < half.headline["training_slices"] < count[0] * 0.7 + count[1] / 4
    assert call("train_segmenter", synthetic_share=0.25).reused  # real-only: nothing synthetic to share
    scores = pd.read_parquet(call("evaluate", train_on="both", real_subjects=0.5).path / "scores.parquet")
    assert set(scores["real_subjects"]) == {0.5}
    assert set(scores["synthetic_share"]) == {1.0}


def test_a_set_that_somebody_sent_is_imported_where_it_is_named(table, call, client, work):
    made = SliceSet.open(call("sample").path)
    sent = work / "sent as PNG"
    for channel, name in enumerate(("T1", "T1ce", "T2", "FLAIR", "SEG")):
        (sent / name).mkdir(parents=True)
        for i in range(20):
            slice_ = made.images[i, channel] if channel < 4 else np.array(CODES, np.uint8)[made.labels[i]]
            Image.fromarray(slice_).save(sent / name / f"{i:04d}.png")
    trained = call("train_segmenter", train_on="synthetic", synthetic=sent)
    assert client.get_run(trained.run_id).data.tags["generator"] == "sent as PNG"
    imported = SliceSet.open(call("import_samples", synthetic=sent).path)
    assert np.array_equal(imported.labels, made.labels[:20])
    assert set(call("audit", synthetic=sent).headline["memorized_share"]) == {"tau95", "tau99"}
