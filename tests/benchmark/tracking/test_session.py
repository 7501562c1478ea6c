"""Runs nested as they were opened, and the one run that `mlflow run` made for a call."""

import os

import mlflow
import pytest

from benchmark.tracking.session import Session


@pytest.fixture
def given(monkeypatch, tmp_path):
    """(client, id of a run as `mlflow run` makes it for a call), in an empty store and folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.create_experiment("given")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    run = client.create_run(experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return client, run.info.run_id


def _parent(client, run):
    return client.get_run(run.run_id).data.tags.get("mlflow.parentRunId")


def test_the_outermost_run_is_the_given_one_and_others_are_nested_as_they_were_opened(given, tmp_path):
    client, given_run = given
    session = Session.begin(tmp_path / "work")
    assert "MLFLOW_RUN_ID" not in os.environ  # so no process that starts here takes it for its own
    with session.open_run("table", {"stage": "benchmark"}, {}) as table:
        nested = session.within(table)
        with nested.open_run("first", {}, {}) as first, nested.within(first).open_run("inner", {}, {}) as inner:
            pass
        with nested.open_run("second", {}, {}) as second:
            pass
    assert table.run_id == given_run
    ended = client.get_run(given_run)
    assert (ended.info.run_name, ended.info.status, ended.data.tags["stage"]) == ("table", "FINISHED", "benchmark")
    assert [_parent(client, run) for run in (table, first, inner, second)] == [
        None,
        given_run,
        first.run_id,
        given_run,
    ]
    with Session.begin(tmp_path / "work").open_run("another call", {}, {}) as other:
        assert other.run_id not in {run.run_id for run in (table, first, inner, second)}
    assert _parent(client, other) is None


def test_a_call_with_nothing_to_do_ends_the_given_run_and_says_where_the_result_is(given, tmp_path):
    client, given_run = given
    session = Session.begin(tmp_path / "work")
    session.adopt_reused("prepare", "0123")
    ended = client.get_run(given_run)
    assert (ended.info.status, ended.data.tags["reused_from"]) == ("FINISHED", "0123")


def test_a_call_that_was_given_no_run_leaves_none_where_it_had_nothing_to_do(given, tmp_path, monkeypatch):
    client, given_run = given
    monkeypatch.delenv("MLFLOW_RUN_ID")
    Session.begin(tmp_path / "work").adopt_reused("prepare", "0123")
    assert client.get_run(given_run).data.tags.get("reused_from") is None
    assert len(client.search_runs([client.get_run(given_run).info.experiment_id])) == 1
