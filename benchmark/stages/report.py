"""Everything that was measured → a folder of pages, tables and figures."""

import importlib.metadata
import json
import os
import platform
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch

from analysis.arms import in_order
from analysis.fidelity import rank_correlations
from analysis.limits import Limits, Verdict, judge_images, judge_weights, least_kept
from analysis.long_table import Scores
from analysis.set_tables import ALL, Fidelities, mean_values
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.foreign.detect import is_slice_set
from benchmark.data.slices import SliceSet
from benchmark.names import for_files
from benchmark.report.cohort_card import CARD
from benchmark.report.page import CardLink, CohortFacts, Nearest, ReportInputs, build_report
from benchmark.report.release_card import CardInputs, build_release_card, release_card, worst_patient
from benchmark.stages import Failure, Headline, RunningTask, Settings, StageResult
from benchmark.stages.audit import PAIRS
from benchmark.tracking import runs as tracking
from benchmark.training.precision import resolve_model

SCHEMA = 14  # 14: what the audit searches; sent sets that may know test patients
SHOWN = 8  # slices of each set
# Seen in training: fewer are called a demonstration. Ours, between the budgets of the presets demo and cpu.
DEMO_GENERATOR, DEMO_SEGMENTER = 50_000, 12_000
DEMO_NOTICE = (
    "Training was cut to a small part of what it needs. This proves that the whole thread works, from "
    "NIfTI files to this page. It says nothing about the methods: generators of this quality come nowhere near what "
    "they reach with their full budgets. Blurred images lie close to every brain, so expect a high memorized share "
    "here; the copied share tells whether they lie close to one patient."
)
PACKAGES = ("torch", "monai", "nibabel", "mlflow", "numpy", "scipy", "pandas")


def settings(config: Config) -> Settings:
    return {**config.report.model_dump(mode="json", exclude={"out"}), "demo": is_demonstration(config)}


def needs(config: Config) -> dict[str, Need]:
    raise NotImplementedError("the table hands its results in")


def tags(config: Config) -> dict[str, Any]:
    return {"cohort": config.prepare.cohort}


def run(task: RunningTask) -> Headline:
    config, inputs, folder = task.config, task.inputs, task.folder
    finished = [result for result in inputs.values() if isinstance(result, StageResult)]
    failed = [{"cell": name, "reason": r.reason} for name, r in inputs.items() if isinstance(r, Failure)]
    analyzed = next(result for result in finished if result.stage == "analyze")
    prepared = next(result for result in finished if result.stage == "prepare")
    names = ("scores", "ratios", "tests", "ranks", "rank_tests", "amounts")
    tables = {name: pd.read_parquet(analyzed.path / f"{name}.parquet") for name in names}
    first = config.analyze.seed
    tables["scores"] = Scores(tables["scores"], range(first, first + config.analyze.repeats))
    given = {synthetic.name_of(config, path): Path(path).expanduser() for path in config.analyze.synthetic}
    sets = in_order([*config.analyze.model, *given])
    used = {result.tags.get("generator") for result in finished}  # of others, every cell says why not
    ready = {name: folder for name, folder in given.items() if name in used and is_slice_set(folder)}
    made = ready
    for stage in ("import_samples", "sample", "select"):
        made |= {name: next(iter(paths.values())) for name, paths in _by_set(config, finished, stage, sets).items()}
    audits = _by_set(config, finished, "audit", sets)
    fidelity = _read(_by_set(config, finished, "fidelity", sets), "fidelity.json")
    cohort = cohort_facts(prepared.path)
    attacks = _read(_by_set(config, finished, "attack", sets), "attack.json")
    shutil.copyfile(prepared.path / CARD, folder / CARD)
    written = build_report(
        folder,
        ReportInputs(
            title=config.report.title,
            cohort=cohort,
            sets=sets,
            **tables,
            costs=_costs(finished),
            missing=pd.DataFrame(failed, columns=["cell", "reason"]),
            versions={"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
            hardware=_hardware(),
            budgets=_budgets(config),
            commit=tracking.commit(),
            audits=_read(audits, "audit.json"),
            fidelity=fidelity,
            attacks=attacks,
            correlations=_correlations(config, fidelity, tables["ratios"]),
            curves=_curves(config, finished, sets),
            nearest={name: _nearest([*paths.values()]) for name, paths in audits.items()},
            sample_images=_sample_images(prepared.path, {name: made[name] for name in sets if name in made}),
            demo_notice=DEMO_NOTICE if is_demonstration(config) else None,
            warnings=_fewer_patients(config),
            truncation={name: resolve_model(config, name).get("truncation", 1.0) for name in config.analyze.model},
            release_cards=_release_cards(config, folder, cohort, audits, attacks, tables["ratios"]),
        ),
    )
    return {**analyzed.headline, "tables": len(written["tables"]), "figures": len(written["figures"])}


def _release_cards(
    config: Config,
    folder: Path,
    cohort: CohortFacts,
    audits: dict[str, dict[str, Path]],
    attacks: dict[str, dict[str, dict]],
    ratios: pd.DataFrame,
) -> dict[str, CardLink]:
    """Writes a card for whoever has to sign per set that was audited or attacked, into folder/cards. Limits are judged
    where all its sets were both, and none was filtered: elsewhere something may be found that no limit speaks to."""
    links, given = {}, {synthetic.name_of(config, path): path for path in config.analyze.synthetic}
    for name, file in for_files([*audits, *(name for name in attacks if name not in audits)]).items():
        folders, attacked = audits.get(name, {}), attacks.get(name, {})
        audited = {seed: json.loads((path / "audit.json").read_text()) for seed, path in folders.items()}
        source = given.get(name, name)
        sent = synthetic.generator_of(config, source) is None
        judged = audited.keys() == attacked.keys() and synthetic.whole_of(source) is None
        inputs = CardInputs(
            name,
            cohort,
            [*audited.values()],
            [*attacked.values()],
            worst=worst_patient([*folders.values()], pictured=True),
            ratios=ratios[ratios["generator"] == name],
            limits=worst_verdicts([(audited[s], attacked[s]) for s in audited], sent=sent) if judged else [],
            sent=sent,
            demonstration=is_demonstration(config),
        )
        page, paper = (
            quote(path.relative_to(folder).as_posix()) for path in build_release_card(folder / "cards", inputs, file)
        )
        links[name] = CardLink(page, paper, release_card(inputs).in_a_sentence())
    return links


def worst_verdicts(sets: Iterable[tuple[dict, dict]], *, sent: bool = False) -> list[Verdict]:
    """Every limit, on the set that keeps it least. sets: audit.json and attack.json of each, unfiltered; sent: whether
    somebody sent them."""
    limits, found = Limits(), defaultdict(list)
    for audit, attack in sets:
        images = judge_images(audit, attack, attack, None, limits, sent=sent)
        for verdict in (*images, *judge_weights(audit, attack, limits, sent=sent)):
            found[verdict.about, verdict.name].append(verdict)
    return [least_kept(verdicts) for verdicts in found.values()]


def _fewer_patients(config: Config) -> list[str]:
    """What is to be known of a table whose generators saw a part of the cohort."""
    count = config.train_generator.subjects
    if count is None or not config.analyze.model:
        return []
    return [
        f"Generators were trained on {count} of the training patients (train_generator.subjects). Real arms, and the "
        "training slices that fidelity compares with, are all patients'."
    ]


def _by_set(config: Config, finished: list[StageResult], stage: str, sets: list[str]) -> dict[str, dict[str, Path]]:
    """Where the stage's results lie: by generator or sent set, then by the repeat's seed, in order, or ALL where all
    repeats share the set."""
    repeats = [config.of_repeat(repeat) for repeat in range(config.analyze.repeats)]
    seeds = {repeat.train_generator.seed: str(repeat.train_segmenter.seed) for repeat in repeats}
    seeds = seeds if len(seeds) == len(repeats) else {}
    found: dict[str, dict[str, Path]] = {name: {} for name in sets}
    for result in finished:
        if result.stage == stage and result.tags["model"] in found:  # not of the whole set behind one that was filtered
            found[result.tags["model"]][seeds.get(result.tags.get("seed"), ALL)] = result.path
    return {name: paths for name, paths in found.items() if paths}


def _read(results: dict[str, dict[str, Path]], file: str) -> dict[str, dict[str, dict]]:
    return {
        name: {seed: json.loads((path / file).read_text()) for seed, path in paths.items()}
        for name, paths in results.items()
    }


def is_demonstration(config: Config) -> bool:
    """Whether trainings of this configuration are too short to show what a generator or a segmenter can do."""
    return config.train_generator.images < DEMO_GENERATOR or config.train_segmenter.images < DEMO_SEGMENTER


def cohort_facts(folder: Path) -> CohortFacts:
    """Of the cohort that was prepared in this folder."""
    slices = SliceSet.open(folder)
    by_split = {split: slices.index[slices.index["split"] == split] for split in ("train", "validation", "test")}
    return CohortFacts(
        name=slices.meta["cohort"],
        simulated=slices.meta["simulated"],
        subjects={split: rows["patient"].nunique() for split, rows in by_split.items()},
        slices={split: len(rows) for split, rows in by_split.items()},
        rejected=len(pd.read_csv(folder / "rejected.csv")),
        image_size=slices.images.shape[-1],
        field_of_view=_field_of_view(slices),
        card=CARD,
    )


def _field_of_view(slices: SliceSet) -> int:
    """mm along both sides of a slice: whole native pixels span it, so a few subjects may have a little more or less."""
    return round(float(np.median([down for _, down, _ in slices.meta["spacing"].values()])) * slices.images.shape[-1])


def _costs(finished: list[StageResult]) -> pd.DataFrame:
    """One row per training, as first measured."""
    numbers = ["images", "seconds", "images_per_second", "precision", "device"]
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


def _correlations(config: Config, fidelity: Fidelities, ratios: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of every generator's mean fidelity numbers with its Dice ratio; empty where there is neither."""
    if not fidelity or ratios.empty:
        return pd.DataFrame()
    rows = [
        {"cohort": config.prepare.cohort, "generator": name, **mean_values(each)} for name, each in fidelity.items()
    ]
    return rank_correlations(pd.DataFrame(rows), ratios)


def _curves(config: Config, finished: list[StageResult], sets: list[str]) -> dict[str, pd.DataFrame]:
    """What was measured at every generator's snapshots, the trainings of all repeats and ensembles together; of a
    generator whose set is only there filtered, nothing."""
    trainings: dict[str, list[pd.DataFrame]] = {name: [] for name in sets}
    for result in finished:
        if result.stage == "train_generator" and result.tags["model"] in trainings:
            curve = pd.read_csv(result.path / "curve.csv")
            samples = config.train_generator.snapshot_samples
            trainings[result.tags["model"]].append(curve.assign(seed=result.tags["seed"], samples=samples))
    return {name: pd.concat(curves, ignore_index=True) for name, curves in trainings.items() if curves}


def _nearest(audits: list[Path]) -> Nearest:
    """Of the audits of all of a generator's sets together: every similarity, and the pairs of most evidence."""
    similarities, images, tables = [], [], []
    for audit in audits:
        slices = pd.read_csv(audit / "nearest.csv")
        similarities.append(slices["similarity"])
        with np.load(audit / "pairs.npz", allow_pickle=False) as stored:
            images.append(stored["images"])
            tables.append(slices.iloc[stored["row"]].assign(lies_alike=stored["lies_alike"]))
    closest = pd.concat(tables, ignore_index=True)
    closest = closest.nlargest(PAIRS, "evidence" if "evidence" in closest else "similarity")
    return Nearest(
        synthetic=pd.concat(similarities).to_numpy(),
        null=pd.read_csv(audits[0] / "null.csv")["similarity"].to_numpy(),
        pairs=np.concatenate(images)[closest.index],
        closest=closest.reset_index(drop=True),
    )


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
    made, trained = config.sample, config.train_generator
    facts = {
        "generator training": f"{trained.images:,} images seen",
        "generator snapshots": f"{trained.snapshots}, of {trained.snapshot_samples:,} samples each",
        "synthetic slices": f"{made.samples:,} a set",
        "segmenter training": f"{config.train_segmenter.images:,} images seen",
        "repeats": _repeats(config),
        "permutations": f"{config.analyze.replicates:,}",
        "feature extractor": f"{config.extractor.images:,} images seen",
    }
    own = config.analyze.own_generators and config.analyze.repeats > 1
    if made.ensemble > 1:
        facts["ensemble"] = (
            f"{made.ensemble} trainings a {'repeat' if own else 'generator'}, seeds {trained.seed} to "
            f"{config.of_repeat(config.analyze.repeats - 1).train_generator.seed + made.ensemble - 1}"
        )
    return facts


def _repeats(config: Config) -> str:
    repeats = config.analyze.repeats
    if repeats == 1:
        return "1 a cell"
    return (
        f"{repeats} a cell, {'each with generators of its own' if config.analyze.own_generators else 'one generator'}"
    )
