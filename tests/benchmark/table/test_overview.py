"""A table over several cohorts: cells of each, a report of each, a page that leads to them."""

import re
from pathlib import Path
from urllib.parse import unquote

import mlflow
import pandas as pd
import pytest

from analysis.text import csv_cell
from benchmark.data.phantom import write_cohort
from benchmark.errors import UserError
from benchmark.names import for_file, for_mlflow
from benchmark.parsing import parse
from benchmark.table import run as table
from benchmark.table.cells import jobs

HOSPITAL = "=our $hospital$ (1)"  # a name that is nowhere harmless: MLflow's keys, CSV, LaTeX, addresses
COHORTS = ("phantom", HOSPITAL)
SMOKE = {"preset": "smoke", "model": "diffusion", "train_on": "synthetic"}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A second cohort, in a folder that has to be quoted in a link."""
    folder = tmp_path_factory.mktemp("cohorts") / HOSPITAL
    write_cohort(folder, 8, 5, (30, 30, 16), 1)
    return folder


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """call(**keys): the table, in one work folder and store for all tests here."""
    work = tmp_path_factory.mktemp("work")
    uri = f"sqlite:///{work}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        mlflow.set_tracking_uri(uri)
        folders = {"work_dir": str(work / "work"), "out": str(work / "out")}

        def run(stage, **keys):
            return table.call(stage, parse(stage, {**SMOKE, **folders, **keys})), work / "out"

        yield run
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def both(call, hospital):
    return call("benchmark", data=f"phantom,{hospital}")


def test_every_cohort_has_the_same_cells_and_nothing_is_shared(hospital):
    one = jobs(parse("benchmark", SMOKE))
    two = jobs(parse("benchmark", {**SMOKE, "data": f"phantom,{hospital}"}))
    assert len(two) == len({job.title for job in two}) == len({job.fingerprint for job in two}) == 2 * len(one)
    assert {job.fingerprint for job in one} == {job.fingerprint for job in two if job.cohort == "phantom"}
    names = {cohort: [job.name for job in two if job.cohort == cohort] for cohort in COHORTS}
    assert all(job.title == job.name.replace(job.stage, f"{job.stage} {job.cohort}", 1) for job in two)
    assert names["phantom"] == names[HOSPITAL]


def test_each_cohort_is_split_by_its_own_file(tmp_path, hospital):
    files = [tmp_path / "first.csv", tmp_path / "second.csv"]
    for file, number in zip(files, (1, 2), strict=True):
        rows = [f"Phantom_{n:04d},{('test', 'train')[n != number]}" for n in range(1, 9)]
        file.write_text("\n".join(["subject,split", *rows]))
    planned = jobs(parse("benchmark", {**SMOKE, "data": f"phantom,{hospital}", "split": ",".join(map(str, files))}))
    splits = {job.cohort: job.config.prepare.split for job in planned}
    assert splits == {"phantom": files[0], HOSPITAL: files[1]}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"data": "a/glioma,b/glioma"}, "two cohorts are called 'glioma'"),
        ({"data": "phantom,a/glioma", "split": "only.csv"}, "split: 1 files for 2 cohorts"),
        ({"data": "phantom,not/there"}, "not/there"),
    ],
)
def test_what_cannot_be_a_table_is_refused_before_anything_runs(keys, reason, call):
    with pytest.raises(UserError, match=reason):
        call("benchmark", **keys)


def test_each_cohort_has_its_report_and_one_page_leads_to_them(both):
    result, out = both
    assert result.status == "FINISHED"
    assert set(result.headline) == set(COHORTS)
    page = (out / "index.html").read_text()
    links = [unquote(link) for link in re.findall(r'href="([^"]+)"', page)]
    folders = [Path(link).parent.name for link in links]
    assert links == [f"{folder}/index.html" for folder in folders]
    assert folders == ["phantom", for_file(HOSPITAL)]
    for cohort, folder in zip(COHORTS, folders, strict=True):
        assert f"Cohort {cohort}" in (out / folder / "index.html").read_text()
        scores = pd.read_csv(out / folder / "tables" / "scores.csv")
        assert set(scores["cohort"]) == {csv_cell(cohort)}
        assert f"Dice kept, relative to real-only training: U-Net, {cohort}" in page
    assert "Every “subject” there was computed" in page

    (run,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.stage = 'benchmark'", output_format="list"
    )
    assert run.data.tags["cohort"] == f"phantom, {HOSPITAL}"
    assert run.info.status == "FINISHED"
    ratio = result.headline[HOSPITAL]["ratios"]["synthetic diffusion unet aug on"]
    key = for_mlflow(f"{HOSPITAL}.ratios.synthetic diffusion unet aug on")
    assert run.data.metrics[key] == ratio
    logged = mlflow.MlflowClient().list_artifacts(run.info.run_id, "report")
    assert {Path(entry.path).name for entry in logged} == {"index.html", *folders}


def test_one_cohort_of_the_table_is_the_table_of_that_cohort(both, call, hospital):
    result, out = call("report", data=str(hospital))
    assert result.reused  # analyzed and reported before, as one of two
    assert f"Cohort {HOSPITAL}" in (out / "index.html").read_text()


def test_a_cohort_that_cannot_be_read_leaves_the_others_their_reports(both, call, tmp_path):
    for file in ("t1", "t1ce", "t2", "flair", "seg"):
        path = tmp_path / "broken" / "Subject_1" / f"Subject_1_{file}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not NIfTI")
    result, out = call("benchmark", data=f"phantom,{tmp_path / 'broken'}")
    assert result.status == "FAILED"
    page = (out / "index.html").read_text()
    assert "No report." in page
    assert "no cell of the table could be evaluated" in page
    assert 'href="phantom/index.html"' in page
    assert (out / "phantom" / "index.html").is_file()
