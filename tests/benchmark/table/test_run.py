"""The table's jobs, what a dry run says of them, and what the table refuses before any of them runs."""

import json

import mlflow
import pytest

from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import Failure, analyze, pull
from benchmark.table import run as table
from benchmark.table.cells import jobs
from benchmark.table.plan import in_words
from benchmark.tracking.session import Session

SMOKE = {"preset": "smoke", "model": "stylegan3"}


@pytest.mark.parametrize("synthetic", ["a/set,b/set", "elsewhere/stylegan3"])
def test_two_sets_of_one_name_are_refused(synthetic):
    with pytest.raises(UserError, match="two synthetic sets are called"):
        jobs(parse("benchmark", {**SMOKE, "synthetic": synthetic}))


def test_a_set_is_not_called_as_the_tables_call_real_slices(tmp_path):
    for name in ("real", "none"):
        with pytest.raises(UserError, match=f"two synthetic sets are called '{name}'"):
            jobs(parse("benchmark", {**SMOKE, "synthetic": str(tmp_path / name)}))


def test_a_comma_in_a_path_that_is_not_there_is_told(tmp_path):
    for key in ("data", "synthetic"):
        with pytest.raises(UserError, match=f"{key}: '.*Site A' does not exist. Commas separate, so 2 paths were read"):
            jobs(parse("benchmark", {**SMOKE, key: f"{tmp_path}/Site A,B/x"}))


@pytest.mark.parametrize(
    "keys",
    [
        {"repeats": "1000", "segmenter": ",".join(["unet"] * 50)},
        {"repeats": "1000", "ensemble": "100"},
        {"real_subjects": ",".join(f"0.{n}" for n in range(1, 400)), "synthetic_share": "0.1,0.2", "repeats": "100"},
    ],
)
def test_a_table_of_too_many_cells_is_refused_before_it_is_planned(keys):
    with pytest.raises(UserError, match="more than 100,000 are not planned"):
        jobs(parse("benchmark", {**SMOKE, **keys}))


def test_every_stage_run_comes_once_and_after_what_it_needs():
    planned = jobs(parse("benchmark", {**SMOKE, "repeats": "2"}))
    marks = [job.fingerprint for job in planned]
    assert len(set(marks)) == len({job.name for job in planned}) == len(planned)
    for position, job in enumerate(planned):
        assert set(job.parents.values()) <= set(marks[:position])
    stages = [job.stage for job in planned]
    assert stages.count("prepare") == 1
    assert {stages.count(stage) for stage in ("train_generator", "sample", "audit", "fidelity")} == {2}
    assert stages.count("evaluate") == 6  # three arms, two seeds
    assert stages.count("train_segmenter") == 7  # and the extractor
    assert "train_segmenter unet real aug on seed 0 as extractor" in [job.name for job in planned]


def _of(planned, stage):
    return [job for job in planned if job.stage == stage]


def _ancestors(job, planned):
    """The job's parents, theirs, and so on, by fingerprint."""
    by_mark = {each.fingerprint: each for each in planned}
    found, ahead = set(), [job]
    while ahead:
        parents = [by_mark[mark] for mark in ahead.pop().parents.values()]
        found |= {parent.fingerprint for parent in parents}
        ahead += parents
    return found


def test_no_generator_and_no_sample_serves_two_repeats():
    keys = {"repeats": "3", "ensemble": "2", "train_generator.seed": "7", "analyze.seed": "20"}
    planned = jobs(parse("benchmark", {**SMOKE, **keys}))
    generators = {job.fingerprint: job.config.train_generator.seed for job in _of(planned, "train_generator")}
    assert sorted(generators.values()) == [7, 8, 9, 10, 11, 12]
    assert len({job.config.sample.seed for job in _of(planned, "sample")}) == 3  # nor is the noise the same
    expected = {20: {7, 8}, 21: {9, 10}, 22: {11, 12}}
    for job in _of(planned, "evaluate"):
        behind = {generators[mark] for mark in _ancestors(job, planned) & generators.keys()}
        seed, arm = job.config.train_segmenter.seed, job.config.train_segmenter.train_on
        assert behind == (set() if arm == "real" else expected[seed])
    for stage in ("audit", "fidelity"):
        behind = [_ancestors(job, planned) & generators.keys() for job in _of(planned, stage)]
        assert sorted(sorted(generators[mark] for mark in marks) for marks in behind) == [[7, 8], [9, 10], [11, 12]]


def test_real_only_cells_and_the_extractor_know_no_generator():
    one, other = (
        {
            job.name: job.fingerprint
            for job in jobs(parse("benchmark", {**SMOKE, "repeats": "3", "ensemble": n, **seed}))
        }
        for n, seed in (("1", {}), ("4", {"train_generator.seed": "50", "sample.seed": "9"}))
    )
    real = [name for name in one if "real aug" in name]
    assert len(real) == 7  # three trainings, three evaluations, the extractor
    assert {name: one[name] for name in real} == {name: other[name] for name in real}


def test_repeats_that_share_their_generators_train_sample_and_audit_once():
    planned = jobs(parse("benchmark", {**SMOKE, "repeats": "3", "own_generators": "false"}))
    stages = [job.stage for job in planned]
    assert {stages.count(stage) for stage in ("train_generator", "sample", "audit", "fidelity")} == {1}
    assert stages.count("evaluate") == 9


def test_more_repeats_go_on_after_those_that_are_there():
    few, many = ([job.fingerprint for job in jobs(parse("benchmark", {**SMOKE, "repeats": n}))] for n in "13")
    assert many[: len(few)] == few


def test_a_sent_set_is_audited_once_and_serves_all_repeats(tmp_path):
    for name in ("images.npy", "labels.npy", "index.parquet", "meta.json"):
        (tmp_path / name).touch()
    planned = jobs(parse("benchmark", {**SMOKE, "synthetic": str(tmp_path), "repeats": "3"}))
    for stage in ("audit", "fidelity"):
        assert [job.title for job in _of(planned, stage) if "stylegan3" not in job.title] == [
            f"{stage} {tmp_path.name}"
        ]
        assert len(_of(planned, stage)) == 1 + 3
    assert len(_of(planned, "evaluate")) == 15


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "< 1 s"), (42, "42 s"), (720, "12 min"), (5940, "99 min"), (12240, "3.4 h")]
)
def test_times_are_told_in_the_unit_that_suits_them(seconds, text):
    assert in_words(seconds) == text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, where the tracking store would be made too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    yield tmp_path
    mlflow.set_tracking_uri(None)


def test_a_failure_is_handed_on_with_its_reason_and_is_nobody_s_parent(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/own.db")  # MLflow keeps what it opened, by address
    read = []
    monkeypatch.setattr(analyze, "run", lambda task: read.append(task.inputs["cell"].reason) or {"cells": 0})
    config, session = parse("benchmark", {**SMOKE}), Session.begin(folder / "work")
    for reason in ("no memory", "no memory", "no disk"):  # the same failure again is no news
        result = pull("analyze", config, session, inputs={"cell": Failure("evaluate", reason, folder)})
    assert read == ["no memory", "no disk"]
    run = session.store.client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert not [tag for tag in run.data.tags if tag.startswith("parent.")]


def _dry_run(capsys, **keys):
    """(the plan, what was printed)."""
    plan = table.call("benchmark", parse("benchmark", {**SMOKE, **keys, "dry_run": "true"}))
    return plan, capsys.readouterr().out


def test_a_dry_run_lists_cells_and_runs_within_80_columns_and_writes_nothing(folder, capsys):
    plan, printed = _dry_run(capsys, repeats="3", train_on="synthetic,both,pretrain", synthetic_share="0.5")
    assert plan.status == "FINISHED"
    assert max(map(len, printed.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for cell in ("real", "synthetic stylegan3", "both stylegan3", "pretrain stylegan3 synthetic_share 0.5"):
        assert f"unet {cell} aug on 0 3" in lines
    assert "train_generator stylegan3, 64 images 0 3 unknown" in lines
    assert "Time of what is left: unknown." in printed.replace("\n", " ")
    assert list(folder.iterdir()) == []


def test_the_last_snapshot_of_a_training_is_an_arm_of_its_own_without_a_training_of_its_own(folder):
    without, both = (jobs(parse("benchmark", {**SMOKE, "train_on": arms})) for arms in ("synthetic", ARMS))
    (more,) = {job.fingerprint for job in both} - {job.fingerprint for job in without}
    last = next(job for job in both if job.fingerprint == more)
    best = next(job for job in without if job.topic == "unet synthetic stylegan3 aug on" and job.stage == "evaluate")
    assert (last.stage, last.topic) == ("evaluate", "unet synthetic stylegan3 last snapshot aug on")
    assert last.parents == best.parents


ARMS = "synthetic,synthetic_last"


def _finished(client, experiment, stage, fingerprint="", **facts):
    """A FINISHED run as some earlier call left it."""
    tags = {"stage": stage, "fingerprint": fingerprint, "model": "unet", "image_size": str(facts.pop("size", 16))}
    run = client.create_run(experiment, tags=tags)
    for key, value in facts.items():
        client.log_metric(run.info.run_id, key, value)
    client.set_terminated(run.info.run_id, "FINISHED")
    return run.info.run_id


def _manifest(folder, run_id, tags, headline):
    folder.mkdir(parents=True)
    content = {"run_id": run_id, "tags": tags, "headline": headline, "files": {}}
    (folder / "stage.json").write_text(json.dumps(content))


def test_times_come_from_finished_runs_of_the_same_stage_model_and_slice_size(folder, capsys):
    planned = jobs(parse("benchmark", {**SMOKE, "train_on": "real"}))
    evaluation = next(job for job in planned if job.stage == "evaluate")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("earlier")
    for images, seconds, whole in ((1000, 8, 10), (500, 20, 3), (2000, 50, 60)):  # 0.01, 0.04, 0.03 s an image
        _finished(client, experiment, "train_segmenter", images=images, seconds=seconds, stage_seconds=whole)
    _finished(client, experiment, "train_segmenter", images=10, seconds=9999, stage_seconds=9999, size=256)
    known = _finished(client, experiment, "evaluate", evaluation.fingerprint, stage_seconds=5)
    _manifest(evaluation.folder, known, evaluation.config.common.model_dump(mode="json"), {"stage_seconds": 5})
    tags = {"model": "somebody's", "image_size": 16}
    for name, seconds in (("a", 100), ("b", 300)):  # measured under another tracking store
        _manifest(folder / "work" / "audit" / name, f"elsewhere {name}", tags, {"stage_seconds": seconds})

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    plan, printed = _dry_run(capsys, train_on="real")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "unet real aug on 1 0" in lines
    assert "train_segmenter unet, 128 images 0 1 4 s" in lines  # 128 · 0.03
    assert "train_segmenter unet, 64 images 0 1 2 s" in lines
    assert "audit 0 1 3 min" in lines
    assert "prepare 0 1 unknown" in lines
    known = 128 * 0.03 + 64 * 0.03 + 200  # unknown: prepare, train_generator, sample, fidelity, attack
    assert f"{known / 60:.0f} min, one after another, and 5 runs" in " ".join(printed.split())
    assert plan.summary() == {"cells": 1, "runs": {"done": 1, "left": 8, "unmeasured": 5}, "seconds": None}


def test_a_dry_run_prints_nothing_of_its_own_beside_the_json_line(folder, capsys):
    _, printed = _dry_run(capsys, json="true")
    assert printed == ""  # the command line prints the summary
