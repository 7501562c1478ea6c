"""Tuning: search spaces that fit their models, studies that survive, a preset that any call takes."""

import math
import multiprocessing
import os
import shutil
import signal
import time

import mlflow
import optuna
import pytest
import yaml

import generators
import segmenters
from benchmark import studies
from benchmark import tune as tuning
from benchmark.errors import UserError
from benchmark.parsing import parse, resolve_model
from benchmark.stages import train_generator
from generators.diffusion import Diffusion

MODELS = [*generators.names(), *segmenters.names()]


def _ends(within):
    return within if isinstance(within, list) else within[:2]


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_that_is_searched_is_one_that_the_model_takes(model):
    config = parse("tune", {"preset": "smoke", "model": model})
    space = tuning.search_space(model)
    for key, within in space.items():
        for value in _ends(within):
            assert resolve_model(config, model, **{key: value})[key] == value
    for within in space.values():
        assert isinstance(within, list) or within[0] < within[1]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder to work in, whose store is to be made."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.fixture
def work(prepared, empty):
    """The same where a store is, and what every trial of a generator needs."""
    return shutil.copytree(prepared, empty, dirs_exist_ok=True)


def _config(work, **keys):
    given = {"preset": "smoke", "work_dir": str(work / "work"), "model": "diffusion", "trials": "3", **keys}
    return parse("tune", given)


def _study(work, storage=None):
    storage = storage or f"sqlite:///{work}/work/tune/studies.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def test_a_study_ends_in_a_preset_and_is_not_repeated(work):
    result = tuning.tune(_config(work))
    study = _study(work)
    states = [trial.state.name for trial in study.trials]
    assert states.count("COMPLETE") + states.count("PRUNED") == len(states) == 3
    assert states.count("PRUNED") == result.headline["given_up"] + result.headline["diverged"]
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    best = study.best_trial
    assert best.value == max(t.value for t in complete if all(v <= 0 for v in t.constraints.values()))
    assert result.headline["best_objective"] == best.value

    preset = result.path / "best.yaml"
    assert yaml.safe_load(preset.read_text())["extends"] == "smoke"
    config = parse("train_generator", {"preset": str(preset)})
    assert config.train_generator.model == "diffusion"
    assert parse("benchmark", {"preset": str(preset)}).analyze.model == ("diffusion",)  # nobody tuned the others
    resolved = resolve_model(config, "diffusion")
    assert {key: resolved[key] for key in best.params} == best.params
    assert resolved["widths"] == [8, 16]  # the smoke preset's own settings stay
    assert {path.name for path in result.path.iterdir()} >= {
        "trials.csv",
        "history.png",
        "parallel.png",
        "snapshots.png",
    }

    runs = mlflow.search_runs(search_all_experiments=True)
    parent = runs[runs["tags.stage"] == "tune"].iloc[0]
    trials = runs[runs["tags.stage"] == "trial"]
    assert len(trials) == 3
    assert set(trials["tags.mlflow.parentRunId"]) == {parent.run_id}
    trained = runs[runs["tags.stage"] == "train_generator"]
    assert set(trained["tags.mlflow.parentRunId"]) <= set(trials["run_id"])

    again = tuning.tune(_config(work))
    assert len(_study(work).trials) == 3
    assert again.headline["best_trial"] == best.number


def _runs(stage):
    return mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.stage = '{stage}'")


def test_a_trial_that_lags_behind_is_given_up_and_its_training_says_so(work, monkeypatch):
    monkeypatch.setattr(optuna.pruners.SuccessiveHalvingPruner, "prune", lambda *_: True)
    config = _config(work, trials="2", **{"train_generator.images": "64", "train_generator.snapshots": "4"})
    with pytest.raises(UserError, match="none of 2 trials can be chosen"):
        tuning.tune(config)
    assert [len(trial.intermediate_values) for trial in _study(work).trials] == [1, 1]
    trained = _runs("train_generator")
    assert set(trained["status"]) == {"KILLED"}
    assert set(trained["metrics.images_per_second"].notna()) == {True}  # what it logged until then is there
    assert set(_runs("trial")["tags.given up"]) == {"at snapshot 1: it lagged behind the other trials"}


def test_a_trial_at_its_last_snapshot_is_not_given_up(work, monkeypatch):
    monkeypatch.setattr(optuna.pruners.SuccessiveHalvingPruner, "prune", lambda *_: True)
    result = tuning.tune(_config(work, trials="2", **{"train_generator.snapshots": "1"}))
    assert result.headline["given_up"] == 0
    assert {trial.state.name for trial in _study(work).trials} == {"COMPLETE"}


def test_a_trial_that_diverges_is_recorded_and_the_study_goes_on(work, monkeypatch):
    train_step = Diffusion.train_step

    def unstable(model, images, seen):
        losses = train_step(model, images, seen)
        return {"loss": losses["loss"] * math.nan} if model.config.prediction == "epsilon" else losses

    monkeypatch.setattr(Diffusion, "train_step", unstable)
    monkeypatch.setattr(Diffusion.Config, "search_space", {"prediction": ["v", "epsilon"], "dropout": (0.0, 0.3)})
    result = tuning.tune(_config(work, trials="4", prune="false", **{"tune.seed": "1"}))
    trials = _study(work).trials
    diverged = [trial for trial in trials if trial.params["prediction"] == "epsilon"]
    assert 0 < result.headline["diverged"] == len(diverged) < 4
    assert {trial.state.name for trial in diverged} == {"PRUNED"}
    assert all("'loss' is nan" in trial.user_attrs["diverged"] for trial in diverged)
    assert (_runs("train_generator")["status"] == "FAILED").sum() == len(diverged)


def test_a_trial_whose_first_snapshot_copies_is_recorded_and_the_study_goes_on(work, monkeypatch):
    p_values = iter([0.0, 1.0, 1.0, 1.0, 0.0])  # of three trials' snapshots: the first, none, and the second one copies

    def measured(*_):
        zeros = {"kernel_distance": 0.1, "kernel_floor": 0.0, "memorized_share": 0.0, "copied_share": 0.0}
        return lambda images: {**zeros, "copied_p_value": next(p_values)}

    monkeypatch.setattr(train_generator, "Monitor", measured)
    stopping = {"train_generator.stop_when_copied": "true", "train_generator.snapshots": "2"}
    result = tuning.tune(_config(work, trials="3", prune="false", **stopping))
    trials = _study(work).trials
    assert [trial.state.name for trial in trials] == ["PRUNED", "COMPLETE", "COMPLETE"]
    assert [len(trial.intermediate_values) for trial in trials] == [0, 2, 1]
    assert "copies training slices at its first snapshot already" in trials[0].user_attrs["copied"]
    assert (result.headline["copied"], result.headline["diverged"], result.headline["given_up"]) == (1, 0, 0)
    assert _runs("train_generator")["status"].value_counts().to_dict() == {"FINISHED": 2, "FAILED": 1}


def _worker(config, heartbeat, store):
    os.environ["MLFLOW_TRACKING_URI"] = store  # the server that forks workers knows the environment of its own start
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    studies.HEARTBEAT = heartbeat
    tuning.tune(config)


def _processes():
    return multiprocessing.get_context("forkserver")


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_two_workers_share_a_study(store, work, request):
    storage = request.getfixturevalue("postgres") if store == "postgres" else None
    if store == "postgres" and storage is None:
        pytest.skip("PostgreSQL or psycopg2 is not installed")
    common = {"prune": "false", **({"storage": storage} if storage else {})}
    config = _config(work, trials="4", **common)
    tuning.tune(_config(work, trials="1", **common))  # makes stores and shared stages
    workers = [_processes().Process(target=_worker, args=(config, 60, mlflow.get_tracking_uri())) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    trials = _study(work, storage).trials
    assert 4 <= len(trials) <= 5  # one may have begun its last trial while the other ended it
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials)


def test_a_killed_worker_s_trial_is_tried_again_with_the_same_settings(work):
    config = _config(work, trials="2", prune="false", **{"train_generator.images": "400"})
    worker = _processes().Process(target=_worker, args=(config, 1, mlflow.get_tracking_uri()))
    worker.start()
    deadline = time.monotonic() + 120
    while not list((work / "work").glob("train_generator/*/snapshots/*.png")):
        assert worker.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    killed = _study(work).trials[-1]
    assert killed.state.name == "RUNNING"
    time.sleep(3)  # its heartbeat is missed
    other = _processes().Process(target=_worker, args=(config, 1, mlflow.get_tracking_uri()))
    other.start()
    other.join()
    assert other.exitcode == 0
    trials = _study(work).trials
    assert trials[killed.number].state.name == "FAIL"
    assert killed.params in [trial.params for trial in trials[killed.number + 1 :]]
    assert sum(trial.state.name == "COMPLETE" for trial in trials) == 2


def test_an_interrupted_study_goes_on_with_the_trial_that_it_left(work, monkeypatch):
    config = _config(work, trials="2", prune="false")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tuning.tune(config)
    assert set(_runs("trial")["status"]) == set(_runs("tune")["status"]) == {"KILLED"}
    tuning.tune(config)
    trials = _study(work).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params != trials[2].params


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("postgresql//me:secret@127.0.0.1/studies", "not a database's address"),
        ("postgres://me:secret@127.0.0.1/studies", "cannot be used: .*postgres"),
        ("postgresql+psycopg2://me:secret@127.0.0.1:1/studies", "cannot be used: .*refused"),
        ("sqlite:///{work}/mlflow.db", "a study takes one of its own"),
    ],
)
def test_a_database_that_cannot_hold_a_study_is_refused(storage, reason, empty):
    with pytest.raises(UserError, match=f"storage: .*{reason}") as refused:
        tuning.tune(_config(empty, storage=storage.format(work=empty)))
    assert "secret" not in str(refused.value)
    assert not list((empty / "work").glob("prepare/*"))  # before any work


def _ended(work, name, direction, trials, **attributes):
    """A study that somebody left in work/studies.db: one finished trial for each of `trials`, (parameters, value)."""
    study = optuna.create_study(storage=f"sqlite:///{work}/studies.db", study_name=name, direction=direction)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    for params, value in trials:
        within = {key: optuna.distributions.FloatDistribution(0, 1) for key in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=within, value=value))
    return {"study": name, "storage": f"sqlite:///{work}/studies.db"}


def _made(model, settings="0" * 16):
    return {"model": model, "objective": "dice", "settings": settings}


@pytest.mark.parametrize(
    ("direction", "trials", "attributes", "says"),
    [
        ("minimize", [], {}, "it minimizes, and this call maximizes dice of unet"),
        ("minimize", [({"learning_rate": 0.1}, 0.2)], {}, "it minimizes, and this call maximizes dice of unet"),
        ("maximize", [({"r1_gamma": 0.1}, 0.2)], {}, "it is one of r1_gamma, and this call tunes unet"),
        ("maximize", [], _made("swin"), "it is one of swin, and this call tunes unet"),
        ("maximize", [], _made("unet"), "its trials had other settings"),
    ],
)
def test_a_study_of_something_else_is_refused_and_leaves_no_preset(direction, trials, attributes, says, empty):
    given = _ended(empty, "mine", direction, trials, **attributes)
    with pytest.raises(UserError, match=f"study 'mine' cannot go on: {says}.*study=NAME"):
        tuning.tune(_config(empty, model="unet", **given))
    assert not list(empty.rglob("best.yaml"))
    assert not list((empty / "work").glob("prepare/*"))  # before any work
    study = optuna.load_study(study_name="mine", storage=given["storage"])
    assert len(study.trials) == len(trials)


def test_a_study_without_our_marks_is_taken_where_its_parameters_are_ours(tmp_path):
    space = tuning.search_space("unet")
    config = _config(tmp_path, model="unet")
    study = optuna.create_study(direction="maximize")
    tuning._refuse_another(study, config, space, "mark")
    assert (study.user_attrs["model"], study.user_attrs["objective"]) == ("unet", "dice")
    tuning._refuse_another(study, config, space, "mark")  # its own marks are no reason
    with pytest.raises(UserError, match="other settings"):
        tuning._refuse_another(study, config, space, "another budget")


def test_a_trial_that_copies_is_never_the_best():
    study = optuna.create_study(direction="minimize")
    for value, copied in ((0.1, 0.2), (0.5, -0.01), (0.4, 0.0)):
        trial = study.ask()
        trial.set_constraint("copied_share", copied)
        study.tell(trial, value)
    assert tuning._best(study).value == 0.4


def test_a_study_without_a_trial_to_choose_says_why():
    study = optuna.create_study(direction="minimize")
    trial = study.ask()
    trial.set_constraint("copied_share", 0.3)
    study.tell(trial, 0.1)
    stopped = optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED, user_attrs={"copied": "from the first on"}
    )
    study.add_trial(stopped)
    with pytest.raises(UserError, match="none of 2 trials can be chosen: 2 copied more training slices"):
        tuning._best(study)
