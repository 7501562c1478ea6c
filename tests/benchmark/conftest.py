"""Ports, a clock, a real PostgreSQL on the loopback interface where there is one, and a phantom prepared once."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder to be copied: in `work` what a generator of the smoke preset needs, a prepared phantom and an extractor,
    and in `mlflow.db` the store that knows of them."""
    import mlflow  # here, so that tests without it start quickly

    from benchmark.parsing import parse
    from benchmark.stages import needs
    from benchmark.table.run import call

    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        config = parse("train_generator", {"preset": "smoke", "work_dir": str(folder / "work")})
        for stage, own in needs("train_generator", config).values():
            call(stage, own)
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand: clock[0] [s]."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(scope="session")
def free_port():
    """Call it for a port of the loopback interface that nobody listens on."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="module")
def postgres(free_port):
    """The address of an empty PostgreSQL database, or None where PostgreSQL or its driver is not installed."""
    config = shutil.which("pg_config")
    folders = [subprocess.check_output([config, "--bindir"], text=True).strip()] if config else []
    search = os.pathsep.join([*folders, os.environ["PATH"]])
    initdb, control = shutil.which("initdb", path=search), shutil.which("pg_ctl", path=search)
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        initdb = None
    if initdb is None or control is None:
        yield None
        return
    # It refuses to run as root; another user sees only what lies outside pytest's folders.
    owner = pwd.getpwnam("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    port, folder = free_port(), Path(tempfile.mkdtemp())
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    as_owner = {"user": owner.pw_uid, "group": owner.pw_gid} if os.geteuid() == 0 else {}

    def call(*command):
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_owner)

    call(initdb, "-D", "data", "-U", "standin", "--auth", "trust", "--no-sync", "--no-locale", "--encoding", "UTF8")
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    call(control, "-D", "data", "-l", "log", "-o", options, "start")  # and waits until it takes connections
    yield f"postgresql+psycopg2://standin@127.0.0.1:{port}/postgres"
    call(control, "-D", "data", "-m", "fast", "stop")
    shutil.rmtree(folder)
