"""The table on a Ray cluster, one of whose nodes is lost while it trains, and in two processes, against the table made
serially."""

import json
import os
import secrets
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from benchmark.data.slices import SliceWriter
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.table.executors import OnRay
from benchmark.tracking.store import Store
from benchmark.training import processes
from tests.benchmark.table.watched import PATIENCE, family, holder, while_alive

ROOT = Path(__file__).parents[3]
TABLE = ["--preset", "smoke", "--model", "diffusion", "--train_on", "synthetic", "--json"]
LONGER = ["--train_generator.images", "160", "--train_generator.checkpoint_seconds", "0"]


def test_without_ray_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install ray"):
        OnRay(parse("benchmark", {"executor": "ray"}).benchmark, Store("", "", tmp_path))


def test_under_torchrun_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "world", lambda: 2)
    with pytest.raises(UserError, match="start the table without torchrun"):
        OnRay(parse("benchmark", {"executor": "ray"}).benchmark, Store("", "", tmp_path))


LOCAL = """
import os
from pathlib import Path
from benchmark.parsing import parse
from benchmark.table.executors import OnRay
from benchmark.tracking.store import connect
from benchmark.training import processes
given = {"executor": "ray", "address": "local", "cpus_per_cell": "1"}
with OnRay(parse("benchmark", given).benchmark, connect(Path("work"))):
    os.write(1, b"ready\\n")  # Python's own stdout is turned away from what Ray says
    os.read(0, 1)
"""


def _listening(processes):
    """Addresses that these processes listen on, as /proc/net writes them."""
    sockets = set()
    for link in (link for process in processes for link in Path("/proc").glob(f"{process}/fd/*")):
        with suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(link))
    tables = "".join(Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "tcp6"))
    lines = map(str.split, tables.splitlines())
    return [line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]


def test_a_cluster_for_one_call_listens_on_the_loopback_interface_alone(tmp_path):
    if find_spec("ray") is None:  # not imported here: the cluster below has its own settings, read at import
        pytest.skip("needs the extra: pip install 'stand-in[ray]'")
    call = [sys.executable, "-c", LOCAL]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(call, cwd=tmp_path, env=environment, **pipes) as process:
        process.stdout.readline()
        addresses = _listening(family(process.pid))
        process.communicate(b"\n")
    assert process.returncode == 0
    assert len(addresses) >= 3  # the cluster's store, its raylet, the driver
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.fixture(scope="module")
def cluster():
    """A head that runs no tasks and two nodes of one core, each a raylet of its own; a secret keeps others out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra: pip install 'stand-in[ray]'")
        started = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        nodes = [started.add_node(num_cpus=1) for _ in range(2)]
        yield started.address, [node.all_processes["raylet"][0].process for node in nodes]
        started.shutdown()


def _start(folder, *arguments):
    """`python -m benchmark benchmark` in the background, with one torch thread and a store of its own in `folder`."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmark", "benchmark", *TABLE, *LONGER, *arguments]
    command += ["--work_dir", str(folder / "work"), "--out", str(folder / "out")]
    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=log, text=True
        )


def _books(folder):
    (path,) = folder.glob("work/benchmark/*/jobs.csv")
    return pd.read_csv(path).set_index("job")


@pytest.fixture(scope="module")
def tables(cluster, tmp_path_factory):
    """The same table thrice, one cell of which must fail: folder and process of each, newest checkpoint at the kill."""
    address, raylets = cluster
    folder = tmp_path_factory.mktemp("tables")
    meta = {"kind": "synthetic", "cohort": "?", "simulated": True, "spacing": {"sent": [1, 1, 1]}}
    with SliceWriter(folder / "too-small", 8, meta) as writer:
        images, labels = np.zeros((9, 4, 8, 8), np.uint8), np.zeros((9, 8, 8), np.uint8)
        writer.append(images, labels, subject="sent", seed=list(range(9)), z=-1, split="synthetic")

    sent = ["--synthetic", str(folder / "too-small")]
    serial = _start(folder / "serial", *sent)
    on_ray = _start(folder / "ray", *sent, "--executor", "ray", "--address", address)
    log = folder / "ray" / "log"

    def checkpoints():
        return sorted((folder / "ray" / "work").glob("train_generator/*/checkpoints/*.pt"))

    while_alive(on_ray, checkpoints, log)
    assert (_books(folder / "ray")["status"] == "FINISHED").any()  # kept while it runs
    lock = checkpoints()[0].parents[1].with_suffix(".lock")
    worker, parent = while_alive(on_ray, lambda: holder(lock), log)
    (raylet,) = [process for process in raylets if process.pid == parent]
    raylet.kill()
    raylet.wait()
    while_alive(on_ray, lambda: (holder(lock) or [None])[0] != worker, log)
    seen = int(checkpoints()[-1].name.partition("-")[0])
    beside = _start(folder / "processes", *sent, "--executor", "processes")
    for process in (serial, on_ray, beside):
        process.lines, _ = process.communicate(timeout=PATIENCE)
    made = {"serial": (folder / "serial", serial), "ray": (folder / "ray", on_ray)}
    return {**made, "processes": (folder / "processes", beside), "seen": seen}


def _scores(folder):
    (path,) = folder.glob("work/analyze/*/scores.csv")
    return pd.read_csv(path)


@pytest.mark.parametrize("executor", ["ray", "processes"])
def test_the_scores_are_those_of_the_serial_run_number_for_number(tables, executor):
    serial, other = (_scores(tables[name][0]) for name in ("serial", executor))
    assert len(serial) > 100
    pd.testing.assert_frame_equal(other, serial, check_exact=True)


@pytest.mark.parametrize("executor", ["ray", "processes"])
def test_weights_and_samples_are_those_of_the_serial_run_byte_for_byte(tables, executor):
    for stage, name in (("train_generator", "weights.safetensors"), ("sample", "images.npy")):
        (serial,), (other,) = (list(tables[which][0].glob(f"work/{stage}/*/{name}")) for which in ("serial", executor))
        assert other.read_bytes() == serial.read_bytes()


def test_what_fails_is_recorded_with_its_reason_and_not_tried_again(tables):
    for name in ("serial", "ray", "processes"):
        folder, process = tables[name]
        assert process.returncode == 1
        assert json.loads(process.lines)["status"] == "FAILED"
        books = _books(folder)
        failed = books[books["status"] == "FAILED"]
        assert set(failed["stage"]) == {"train_segmenter", "evaluate", "audit", "fidelity", "attack"}
        assert failed["reason"].str.contains("image_size=8").all()
        assert (books["status"] == "FINISHED").sum() == len(books) - 5
    for name in ("ray", "processes"):
        assert set(_books(tables[name][0]).index) == set(_books(tables["serial"][0]).index)
    tried = [run.data.tags["stage"] for run in _runs(tables, "FAILED")]
    assert sorted(tried) == ["attack", "audit", "fidelity", "train_segmenter"]


def _runs(tables, status):
    client = mlflow.MlflowClient(f"sqlite:///{tables['ray'][0]}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, f"attributes.status = '{status}'")


def test_the_lost_training_went_on_from_its_last_checkpoint(tables):
    (killed,) = _runs(tables, "KILLED")
    assert killed.data.tags["stage"] == "train_generator"
    (resumed,) = [run for run in _runs(tables, "FINISHED") if run.data.tags["stage"] == "train_generator"]
    client = mlflow.MlflowClient(f"sqlite:///{tables['ray'][0]}/mlflow.db")
    before, after = (
        {point.step: point.value for point in client.get_metric_history(run.info.run_id, "images_per_second")}
        for run in (killed, resumed)
    )
    kept = {step: value for step, value in before.items() if step <= tables["seen"]}
    assert kept  # speeds are measured: only a training that went on has the same ones
    assert kept.items() <= after.items()
    assert max(after) == 160


def test_every_run_is_nested_under_the_table_and_none_is_left_running(tables):
    assert not _runs(tables, "RUNNING")
    runs = [run for status in ("FINISHED", "FAILED", "KILLED") for run in _runs(tables, status)]
    (called,) = [run for run in runs if run.data.tags["stage"] == "benchmark"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs if run is not called} == {called.info.run_id}
    assert called.data.tags["failed_jobs"] == "5"
