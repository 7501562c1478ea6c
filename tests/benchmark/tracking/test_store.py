"""The tracking store: reached or refused in one sentence, and told in names that it takes."""

import base64
import json
import os
import sqlite3
import zlib

import mlflow
import pytest
import sqlalchemy

from benchmark.errors import UserError
from benchmark.tracking import store, views
from benchmark.tracking.delivery import sync
from benchmark.tracking.session import Session
from benchmark.tracking.store import connect

NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A store with the experiments `kept` (1) and `gone` (2), which was deleted."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    assert client.create_experiment("kept") == "1"
    client.delete_experiment(client.create_experiment("gone"))
    return uri


@pytest.fixture
def environment(uri, monkeypatch, tmp_path):
    """Set variables in it; MLflow's own are unset but for the store's address."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "LOCKED_SECONDS", 0.1)
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MLFLOW_EXPERIMENT_ID", "999", r"MLFLOW_EXPERIMENT_ID: .* has no experiment '999'"),
        ("MLFLOW_EXPERIMENT_ID", "2", r"MLFLOW_EXPERIMENT_ID: .* has deleted its experiment '2'"),
        ("MLFLOW_EXPERIMENT_ID", "my experiment", r"MLFLOW_EXPERIMENT_ID: .* has no experiment 'my experiment'"),
        ("MLFLOW_EXPERIMENT_ID", "9" * 99, r"MLFLOW_EXPERIMENT_ID: .* has no experiment '9+'"),
        ("MLFLOW_EXPERIMENT_NAME", "gone", r"MLFLOW_EXPERIMENT_NAME: the experiment 'gone' .* was deleted.*restore"),
        ("MLFLOW_EXPERIMENT_NAME", "x" * 501, r"cannot be used: .*500"),
        ("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef", r"MLFLOW_RUN_ID: .* has no run '0123"),
        ("MLFLOW_RUN_ID", "../x", r"MLFLOW_RUN_ID: .* has no run '\.\./x'"),
        ("MLFLOW_TRACKING_URI", "gopher://x", r"MLFLOW_TRACKING_URI: .*gopher://x cannot be used: .*unsupported"),
        ("MLFLOW_TRACKING_URI", "sqlite:////", r"MLFLOW_TRACKING_URI: .* cannot be used: unable to open"),
        ("MLFLOW_TRACKING_URI", "sqlite:////proc/none.db", r"MLFLOW_TRACKING_URI: .* cannot be used: unable to open"),
        ("MLFLOW_TRACKING_URI", "sqlite:///garbage", r"MLFLOW_TRACKING_URI: .* cannot be used: file is not a database"),
        ("MLFLOW_TRACKING_URI", "sqlite:///locked", r"MLFLOW_TRACKING_URI: .* cannot be used: database is locked"),
        ("MLFLOW_TRACKING_URI", "postgres://me:secret@h/x", r"://me:\*\*\*@h/x cannot be used"),
        ("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:secret@127.0.0.1:1/x", r"127.0.0.1:1/x cannot be used"),
    ],
)
def test_what_the_environment_names_and_is_not_there_is_refused_in_one_sentence(
    variable, value, says, environment, tmp_path
):
    (tmp_path / "garbage").write_bytes(b"no database at all, whatever its name says" * 99)
    environment.setenv(variable, value)
    with sqlite3.connect(tmp_path / "locked") as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match=says) as refusal:
            connect(tmp_path / "work")
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_store_whose_making_is_cut_short_is_not_there_and_made_anew(environment, tmp_path):
    environment.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'fresh.db'}")

    def stopped(engine):
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("create table experiments (experiment_id integer)"))
        raise KeyboardInterrupt

    with environment.context() as patch:
        patch.setattr("mlflow.store.tracking.sqlalchemy_store.mlflow.store.db.utils._initialize_tables", stopped)
        with pytest.raises(KeyboardInterrupt):
            connect(tmp_path / "work")
    assert list(tmp_path.glob("fresh.db*")) == []
    assert connect(tmp_path / "work").experiments()


def test_connecting_leaves_the_environment_as_it_was(environment, tmp_path):
    before = dict(os.environ)
    reached = connect(tmp_path / "work")
    assert mlflow.MlflowClient(reached.uri).get_experiment(reached.experiment).name == "stand-in"
    assert dict(os.environ) == before
    environment.setenv("MLFLOW_EXPERIMENT_ID", "1")
    assert connect(tmp_path / "work").experiment == "1"
    environment.setenv("MLFLOW_EXPERIMENT_ID", "")  # as an unset shell variable gives
    environment.setenv("MLFLOW_EXPERIMENT_NAME", "kept")
    assert connect(tmp_path / "work").experiment == "1"


ODD = [
    "sent (1)",
    "sent -1-",
    "=cmd|' /C calc'!A0",
    "<script>",
    r"$\input{x}$",
    "a\nb",
    "\u202eabc",
    "\udcff",
    "..",
    "/",
]


def test_names_that_mlflow_refuses_are_cleaned_and_told_apart(environment, tmp_path):
    session = Session.begin(tmp_path / "work")
    headline = {"ratios": {f"synthetic {name} unet aug on": number for number, name in enumerate(ODD)}}
    with session.open_run("run \0\udcff", {name: f"\0 {name}" for name in ODD}, {name: name for name in ODD}) as run:
        run.log_dataset("\0 \udcff samples", "0123", tmp_path, "synthetic")
        run.log_scores({"copied": 1.0}, run.run_id, ("\0 \udcff", "0123"))
        run.log_summary({**headline, **{name: number for number, name in enumerate(ODD)}})
    ended = session.store.client.get_run(run.run_id)
    assert ended.info.status == "FINISHED"
    metrics = ended.data.metrics
    assert metrics["ratios.synthetic sent -1- unet aug on"] == 1  # allowed as it is
    assert sorted(value for key, value in metrics.items() if key.startswith("ratios.")) == list(range(len(ODD)))
    assert metrics.pop("copied") == 1
    assert sorted(value for key, value in metrics.items() if not key.startswith("ratios.")) == list(range(len(ODD)))
    assert [read.dataset.name for read in ended.inputs.dataset_inputs] == [r"\x00 \udcff samples"]
    assert len(ended.data.params) == len(ODD)
    assert ended.data.params["cfg.sent -1-"] == "sent -1-"
    assert ended.data.tags["sent -1-"] == r"\x00 sent -1-"
    assert list((tmp_path / "work" / "tracking").iterdir()) == []


def test_a_journal_that_an_earlier_version_could_not_deliver_is_delivered_now(environment, tmp_path):
    reached = connect(tmp_path / "work")
    run = reached.client.create_run(reached.experiment).info.run_id
    reached.journals.mkdir()
    lines = ['["metric", ["ratios.sent (1)", 0.5, 1, 0]]', '["end", ["FINISHED", 2]]']
    (reached.journals / f"{run}.jsonl").write_text("\n".join([*lines, ""]))
    assert sync(tmp_path / "work") == {"delivered": [run], "lost": {}, "left": {}}
    ended = reached.client.get_run(run)
    assert (list(ended.data.metrics.values()), ended.info.status) == ([0.5], "FINISHED")


def test_saved_views_are_offered_once(environment, tmp_path):
    reached = connect(tmp_path / "work")
    view = f"{views.TAG}cells"
    tag = json.loads(reached.client.get_experiment(reached.experiment).tags[view])
    state = json.loads(zlib.decompress(base64.b64decode(tag["state"].removeprefix("deflate;"))))
    assert state["searchFilter"] == "tags.stage = 'cell'"
    for offered in views.VIEWS.values():
        search, sort = offered["state"]["searchFilter"], offered["state"]["orderByKey"]
        reached.client.search_runs([reached.experiment], search, order_by=[sort])  # raises where it is no search
    reached.client.set_experiment_tag(reached.experiment, view, "mine")
    connect(tmp_path / "work")
    assert reached.client.get_experiment(reached.experiment).tags[view] == "mine"


def test_runs_are_found_by_tags_that_a_query_cannot_quote(environment, tmp_path):
    session = Session.begin(tmp_path / "work")
    for model in ('it\'s "one"', 'it\'s "another"'):
        with session.open_run("run", {"stage": "odd", "model": model}, {}) as run:
            run.log_metrics({"which": len(model)})
    assert list(session.store.finished_runs({"stage": "odd", "model": 'it\'s "one"'}, 10).values()) == [{"which": 10}]
