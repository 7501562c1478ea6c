"""Everything that was measured → a folder of pages, tables and figures."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmark import tracking
from benchmark.config import Config
from benchmark.data.slices import SliceSet
from benchmark.stages import StageResult, synthetic
from benchmark.stages.prepare import cohort_name
from benchmark.stages.rendering import CohortFacts, ReportInputs, build_report
from benchmark.tracking import StageRun

SCHEMA = 1
SHOWN = 8  # slices of each set
DEMO_NOTICE = (
    "This is the demo: every budget is cut to minutes on two CPU cores. It proves that the whole thread works, from "
    "NIfTI files to this page. It says nothing about the methods: generators of this quality come nowhere near what "
    "they reach with their full budgets. Blurred images lie close to every brain, so expect the audit to raise its "
    "alarm here; the closest pairs below show whether anybody was copied."
)
PACKAGES = ("torch", "monai", "nibabel", "mlflow", "numpy", "scipy", "pandas")


def settings(config: Config) -> dict:
    return {**config.report.model_dump(mode="json", exclude={"out"}), "demo": _is_demo(config)}


def needs(config: Config) -> dict:
    raise NotImplementedError("the table hands its results in")


def tags(config: Config) -> dict:
    return {"cohort": cohort_name(config)}


def run(config: Config, inputs: dict[str, StageResult], folder: Path, tracked: StageRun) -> dict:
    finished = [result for result in inputs.values() if result.status == "FINISHED"]
    analyzed = next(result for result in finished if result.stage == "analyze")
    names = ("scores", "ratios", "tests", "ranks", "rank_tests")
    tables = {name: pd.read_parquet(analyzed.path / f"{name}.parquet") for name in names}
    prepared = next(result for result in finished if result.stage == "prepare")
    audits = {result.tags["model"]: result.path for result in finished if result.stage == "audit"}
    sets = {result.tags["model"]: result.path for result in finished if result.stage == "sample"}
    external = {synthetic.name_of(config, path): Path(path) for path in config.analyze.synthetic}
    failed = [{"cell": name, "reason": r.headline["reason"]} for name, r in inputs.items() if r.status != "FINISHED"]
    written = build_report(
        folder,
        ReportInputs(
            title=config.report.title,
            cohort=_cohort_facts(config, prepared.path),
            **tables,
            costs=_costs(finished),
            missing=pd.DataFrame(failed, columns=["cell", "reason"]),
            versions={"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
            hardware=_hardware(),
            budgets=_budgets(config),
            commit=tracking.commit(),
            audits={name: json.loads((path / "audit.json").read_text()) for name, path in audits.items()},
            nearest={name: _nearest(path) for name, path in audits.items()},
            sample_images=_sample_images(prepared.path, {**sets, **external}),
            demo_notice=DEMO_NOTICE if _is_demo(config) else None,
        ),
    )
    return {**analyzed.headline, "tables": len(written["tables"]), "figures": len(written["figures"])}


def _is_demo(config: Config) -> bool:
    return config.common.preset in ("demo", "smoke")


def _cohort_facts(config: Config, folder: Path) -> CohortFacts:
    slices = SliceSet.open(folder)
    by_split = {split: slices.index[slices.index["split"] == split] for split in ("train", "validation", "test")}
    return CohortFacts(
        name=slices.meta["cohort"],
        simulated=slices.meta["simulated"],
        subjects={split: rows["subject"].nunique() for split, rows in by_split.items()},
        slices={split: len(rows) for split, rows in by_split.items()},
        rejected=len(pd.read_csv(folder / "rejected.csv")),
        image_size=config.prepare.image_size,
    )


def _costs(finished: list[StageResult]) -> pd.DataFrame:
    """One row per training, as first measured."""
    numbers = ["images", "seconds", "images_per_second", "device"]
    rows = [
        {
            "stage": result.stage,
            "model": result.tags["model"],
            "arm": result.tags.get("arm", ""),
            "seed": result.tags["seed"],
            **{key: result.headline[key] for key in numbers},
        }
        for result in finished
        if result.stage in ("train_generator", "train_segmenter")
    ]
    return pd.DataFrame(rows, columns=["stage", "model", "arm", "seed", *numbers])


def _nearest(audit: Path) -> dict[str, np.ndarray]:
    with np.load(audit / "pairs.npz", allow_pickle=False) as pairs:
        return {
            "synthetic": pd.read_csv(audit / "nearest.csv")["similarity"].to_numpy(),
            "null": pd.read_csv(audit / "null.csv")["similarity"].to_numpy(),
            "pairs": pairs["images"],
            "pair_similarity": pairs["similarity"],
            "pair_shift": pairs["shift"],
            "pair_mirrored": pairs["mirrored"],
        }


def _sample_images(prepared: Path, sets: dict[str, Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Slices of each set, evenly spaced over those that show tumour (over all where none does): not a selection."""
    shown = {}
    for name, folder in {"real": prepared, **sets}.items():
        slices = SliceSet.open(folder)
        rows = np.flatnonzero(slices.index["tumour_pixels"] > 0)
        rows = rows if len(rows) else np.arange(len(slices))
        chosen = rows[np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)]
        shown[name] = (slices.images[chosen], slices.labels[chosen])
    return shown


def _hardware() -> dict[str, object]:
    facts = {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform(terse=True)}
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _budgets(config: Config) -> dict[str, object]:
    return {
        "generator training": f"{config.train_generator.images:,} images seen",
        "synthetic slices": f"{config.sample.samples:,} a generator",
        "segmenter training": f"{config.train_segmenter.images:,} images seen",
        "repeats": f"{config.analyze.repeats} a cell",
        "bootstrap": f"{config.analyze.replicates:,} replicates",
    }
