"""Runs that lose nothing: eight at once, a server that stops for a while, one that stays away.

Real processes on the loopback interface: PostgreSQL where it is installed, and `mlflow server` with an artifact store.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest

from benchmark.errors import UserError
from benchmark.tracking import runs as tracking
from benchmark.tracking import store
from benchmark.tracking.delivery import sync
from benchmark.tracking.session import Session
from benchmark.tracking.store import connect

ROOT = Path(__file__).parents[3]


def _wait_for(condition, what):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class Server:
    """`mlflow server` with an artifact store; whenever it is started, on the same port of the loopback interface."""

    def __init__(self, folder, database, port):
        self.folder = folder
        self.uri = f"http://127.0.0.1:{port}"
        self.command = [Path(sys.executable).parent / "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        self.command += ["--port", str(port), "--backend-store-uri", database]
        self.command += ["--artifacts-destination", str(folder / "artifacts")]

    def start(self):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        _wait_for(self.answers, "mlflow server did not start")

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self):
        self.signal(signal.SIGTERM)
        self.process.wait()
        _wait_for(lambda: not self.answers(), "mlflow server did not stop")

    def signal(self, number):
        os.killpg(self.process.pid, number)

    @contextmanager
    def frozen(self):
        """It takes connections and answers none; what it was asked it does later."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    @contextmanager
    def stopped(self):
        """It refuses connections, and is then started again."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@pytest.fixture(scope="module")
def server(postgres, free_port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    running = Server(folder, postgres or f"sqlite:///{folder / 'store.db'}", free_port())
    running.start()
    yield running
    running.stop()


@contextmanager
def _store(uri):
    """This process tracks into the store at `uri`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        patch.setattr(tracking, "FLUSH_SECONDS", 0.05)
        patch.setattr(store, "FIRST_PAUSE", 0.05)
        patch.setattr(tracking, "FIRST_PAUSE", 0.05)
        mlflow.set_tracking_uri(uri)
        yield
        mlflow.set_tracking_uri("")


@pytest.fixture(scope="module")
def connected(server):
    with _store(server.uri):
        yield


@pytest.fixture
def work(connected, tmp_path):
    """A work folder of its own for each test."""
    return tmp_path / "work"


@pytest.fixture
def session(work):
    return Session.begin(work)


@pytest.fixture
def client(connected):
    return mlflow.MlflowClient()


def _curve(client, run_id, key):
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, key))


def _artifact(client, run_id, name, folder):
    return Path(client.download_artifacts(run_id, name, folder)).read_bytes()


# Nine processes from one, so that mlflow is imported once: eight finish, one is killed. Each prints its run's id.
NINE = """
import os, signal, sys, time
from pathlib import Path
from benchmark.tracking import runs as tracking
from benchmark.tracking.session import Session

def run(number):
    tracking.FLUSH_SECONDS = 0.05
    work = Path(sys.argv[1])
    with Session.begin(work).open_run(f"run {number}", {"number": number}, {"number": number}) as tracked:
        os.write(1, f"{tracked.run_id}\\n".encode())
        tracked.log_dataset("slices", "0123456789abcdef", work, "prepare")
        for step in range(100):
            time.sleep(0.01)  # long enough for many deliveries, which meet those of the others
            tracked.log_metrics({"loss": step / 7, "speed": number}, step)
            if step % 40 == 0:
                picture = work / f"{number}-{step}.png"
                picture.write_bytes(os.urandom(1000))
                tracked.log_artifact(picture, "pictures")
        if number == 8:
            os.kill(os.getpid(), signal.SIGKILL)

children = []
for number in range(9):
    if not (child := os.fork()):
        try:
            run(number)
            os._exit(0)
        finally:
            os._exit(1)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
sys.exit(codes != [0] * 8 + [signal.SIGKILL])
"""


@pytest.mark.parametrize("store", ["sqlite", "team server"])
def test_eight_runs_at_once_and_one_that_is_killed_lose_nothing(store, postgres, tmp_path, request):
    if store == "sqlite":
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    elif postgres is None:
        pytest.skip("PostgreSQL or psycopg2 is not installed")
    else:
        uri = request.getfixturevalue("server").uri
    work = tmp_path / "work"
    with _store(uri):
        connect(work)  # the parent makes the store
        nine = [sys.executable, "-c", NINE, str(work)]
        done = subprocess.run(
            nine, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "lock" not in done.stderr
        left = sorted(path.stem for path in (work / "tracking").glob("*.jsonl"))
        client, runs = mlflow.MlflowClient(), done.stdout.split()
        assert len(set(runs)) == 9
        killed = next(run for run in runs if client.get_run(run).data.tags["mlflow.runName"] == "run 8")
        assert left == [killed]

        assert sync(work) == {"delivered": [killed], "lost": {}, "left": {}}
        for run_id in runs:
            run = client.get_run(run_id)
            number = int(run.info.run_name.split()[1])
            assert run.info.status == ("KILLED" if run_id == killed else "FINISHED")
            assert run.data.params == {"cfg.number": str(number)}
            assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == ["0123456789abcdef"]
            assert _curve(client, run_id, "loss") == [(step, step / 7) for step in range(100)]
            assert _curve(client, run_id, "speed") == [(step, number) for step in range(100)]
            for step in (0, 40, 80):
                written = (work / f"{number}-{step}.png").read_bytes()
                assert _artifact(client, run_id, f"pictures/{number}-{step}.png", tmp_path) == written


@pytest.mark.parametrize("outage", ["frozen", "stopped"])
def test_a_server_that_is_away_for_a_while_costs_nothing(outage, server, work, session, client, tmp_path):
    def log(run, steps):
        for step in steps:
            run.log_metrics({"loss": step / 7, "speed": 1.0}, step)
            if step % 10 == 0:
                (tmp_path / f"{step}.png").write_bytes(bytes([step]) * step)
                run.log_artifact(tmp_path / f"{step}.png", "pictures")
        run.set_tags({"last": step})

    with session.open_run("training", {}, {"images": 100}) as run:
        log(run, range(100))
        with getattr(server, outage)():
            log(run, range(100, 200))
            time.sleep(2)  # requests fail meanwhile
            log(run, range(200, 250))
            assert not server.answers()  # all these calls came back without it
        log(run, range(250, 256))
    ended = client.get_run(run.run_id)
    assert ended.info.status == "FINISHED"
    assert ended.data.params == {"cfg.images": "100"}
    assert ended.data.tags["last"] == "255"
    assert _curve(client, run.run_id, "loss") == [(step, step / 7) for step in range(256)]
    assert _curve(client, run.run_id, "speed") == [(step, 1.0) for step in range(256)]
    for step in range(0, 256, 10):
        assert _artifact(client, run.run_id, f"pictures/{step}.png", work) == bytes([step]) * step
    assert list((work / "tracking").iterdir()) == []


@contextmanager
def _gone_for_good(server, monkeypatch):
    with server.frozen(), monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        patch.setattr(store, "PATIENCE", 0.5)
        yield


def _left_behind(server, session, monkeypatch, log, **tags):
    """The id of a run whose server goes away for good before log(run)."""
    opened = session.open_run("training", tags, {})
    run = opened.__enter__()
    with _gone_for_good(server, monkeypatch):
        log(run)
        with pytest.raises(UserError, match=r"(?s)FINISHED.*python -m benchmark sync"):
            opened.__exit__(None, None, None)
    return run.run_id


def test_a_server_gone_for_good_ends_the_run_and_sync_delivers_it_later(server, work, session, client, monkeypatch):
    def log(run):
        for step in range(2500):
            run.log_metrics({"loss": step}, step)
        run.log_artifact(Path(__file__))

    run_id = _left_behind(server, session, monkeypatch, log, fingerprint="gone")
    assert client.get_run(run_id).info.status == "RUNNING"  # FINISHED comes last
    assert session.store.finished_run("gone") is None

    assert sync(work) == {"delivered": [run_id], "lost": {}, "left": {}}
    assert session.store.finished_run("gone").info.run_id == run_id
    assert _curve(client, run_id, "loss") == [(step, step) for step in range(2500)]
    assert _artifact(client, run_id, Path(__file__).name, work) == Path(__file__).read_bytes()
    assert sync(work) == {"delivered": [], "lost": {}, "left": {}}


def test_a_file_that_changed_or_went_is_named_and_not_uploaded(server, work, session, client, monkeypatch, tmp_path):
    names = ("same", "changed", "gone")

    def log(run):
        for name in names:
            (tmp_path / name).write_text("as logged")
            run.log_artifact(tmp_path / name)
        run.log_metrics({"after": 1})

    run_id = _left_behind(server, session, monkeypatch, log)
    (tmp_path / "changed").write_text("otherwise")
    (tmp_path / "gone").unlink()

    lost = [
        f"{tmp_path / 'changed'} has changed since it was logged",
        f"{tmp_path / 'gone'} is gone since it was logged",
    ]
    assert sync(work) == {"delivered": [run_id], "lost": {run_id: lost}, "left": {}}
    ended = client.get_run(run_id)
    assert [file.path for file in client.list_artifacts(run_id)] == ["same"]
    assert ended.data.metrics == {"after": 1}
    assert ended.info.status == "FAILED"  # it does not hold what it says
    assert str(tmp_path / "gone") in ended.data.tags["error"]


def test_a_finished_stage_that_could_not_say_so_is_reused_and_a_killed_one_is_not(
    server, work, session, client, monkeypatch
):
    here = {"fingerprint": "left", "path": str(work.resolve() / "train" / "left")}
    run_id = _left_behind(server, session, monkeypatch, lambda run: run.log_metrics({"loss": 1}), **here)
    experiment = client.get_run(run_id).info.experiment_id
    killed = client.create_run(experiment, tags=here).info.run_id
    elsewhere = client.create_run(experiment, tags={**here, "path": "/somewhere/else/train/left"}).info.run_id

    session.close_abandoned("left")
    assert session.store.finished_run("left").info.run_id == run_id
    assert client.get_run(run_id).data.metrics == {"loss": 1}
    assert client.get_run(killed).info.status == "KILLED"
    assert client.get_run(elsewhere).info.status == "RUNNING"


def test_between_stages_a_table_waits_for_the_server(server, session, client, monkeypatch, caplog):
    with server.frozen(), monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        back = threading.Timer(2.5, server.signal, [signal.SIGCONT])
        back.start()
        with session.open_run("next stage", {}, {}) as run:
            assert back.finished.is_set()
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert "waiting for the tracking store" in caplog.text


def test_one_absence_is_waited_for_once(server, session, monkeypatch, caplog):
    with _gone_for_good(server, monkeypatch):
        for _ in range(3):
            with pytest.raises(UserError, match="away for too long"):
                session.store.finished_run("whatever")
    assert [record.message.split()[0] for record in caplog.records].count("waiting") == 1
    assert session.store.finished_run("whatever") is None


def test_what_the_server_refuses_stays_and_holds_back_finished(work, session, client):
    opened = session.open_run("training", {}, {})
    run = opened.__enter__()
    run.log_metrics({"before": 1})
    run.set_tags({"tag": 1})
    run.log_params({"once": 1})
    run.log_params({"once": 2})
    run.set_tags({"tag": 2})
    with pytest.raises(UserError, match=r"(?s)once.*tracking/"):
        opened.__exit__(None, None, None)
    ended = client.get_run(run.run_id)
    assert (ended.data.metrics, ended.data.tags["tag"], ended.info.status) == ({"before": 1}, "1", "RUNNING")
    assert list(sync(work)["left"]) == [run.run_id]


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_an_error_ends_the_run_with_its_reason_after_what_was_logged(error, status, session, client):
    opened = session.open_run("training", {}, {})
    run = opened.__enter__()
    run.log_metrics({"loss": 1})
    reason = error("the reason")
    assert not opened.__exit__(error, reason, None)
    ended = client.get_run(run.run_id)
    assert ended.info.status == status
    assert ended.data.tags["error"] == f"{error.__name__}: the reason"
    assert ended.data.metrics == {"loss": 1}


def test_a_run_whose_making_was_never_answered_is_not_made_twice(work, session, client):
    tags = {"fingerprint": "once", "path": str(work.resolve() / "train" / "once")}
    made = client.create_run(session.store.experiment, tags=tags)
    with session.open_run("training", tags, {}) as run:
        assert run.run_id == made.info.run_id


def test_a_server_that_is_away_at_the_start_is_refused_at_once(tmp_path, caplog, free_port):
    caplog.set_level(logging.WARNING)
    with _store(f"http://127.0.0.1:{free_port()}"), pytest.raises(UserError, match="cannot be used"):
        connect(tmp_path)
    assert "waiting" not in caplog.text
