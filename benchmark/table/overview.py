"""Several cohorts' reports → the page that leads to them, with their ratios side by side."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from analysis import score_tables
from analysis.set_tables import NOT_PROOF
from analysis.statistics import MARGINS
from benchmark.names import for_files
from benchmark.report.page import template
from benchmark.stages import MANIFEST, Failure, Outcome
from benchmark.stages.report import cohort_facts


def build_overview(
    out: Path, title: str, cohorts: Mapping[str, Mapping[str, Outcome]], reasons: Mapping[str, str]
) -> None:
    """Writes out/index.html, self-contained and without a script, and a copy of each cohort's report to out/NAME.

    cohorts: the results of all stages of each that has a report; reasons: why others have none.
    """
    facts, failed, tables = {}, {}, []
    folders = for_files(cohorts)
    for name, results in cohorts.items():
        prepared = next(result for result in results.values() if result.stage == "prepare")
        shutil.copytree(results["report"].path, out / folders[name], ignore=shutil.ignore_patterns(MANIFEST))
        facts[name] = cohort_facts(prepared.path)
        failed[name] = sum(isinstance(result, Failure) for result in results.values())
        ratios, tests = (pd.read_parquet(results["analyze"].path / f"{table}.parquet") for table in ("ratios", "tests"))
        if not ratios.empty:
            tables += score_tables.ratio_tables(ratios, tests)
    page = template("overview.html.j2").render(
        title=title,
        cohorts=facts,
        failed=failed,
        links={name: f"{quote(folder)}/index.html" for name, folder in folders.items()},
        reasons=reasons,
        tables=tables,
        margins=MARGINS,
        not_proof=NOT_PROOF,
    )
    (out / "index.html").write_text(page, encoding="utf-8")
