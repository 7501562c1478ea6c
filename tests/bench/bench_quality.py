"""Minutes of training until a generator's slices stand in for real ones: the preset `cpu`, the phantom at 32 px.

    PYTHONPATH=. python tests/bench/bench_quality.py [NAME ...] [--seeds 3] [--samples 2500] [--set KEY=VALUE ...]

Each generator trains once with the preset's settings, or was trained by `make evidence` in the same folder. From every
snapshot slices are drawn, U-Nets of several seeds learn from them alone, and their mean Dice on real test subjects is
set against that of U-Nets that learned from the real slices. Printed is when that ratio
first reached 0.50, 0.65 and 0.80, in minutes of the training's own clock (what is measured at snapshots stops it), and
how well numbers that could choose a snapshot rank them: Spearman's correlation with that ratio, for each generator.
WORK_DIR/quality keeps the table; a call that was stopped goes on with the snapshots that are not in it. --set gives
keys of the preset another value, such as work_dir=FOLDER or train_generator.images=80000.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from scipy.stats import spearmanr

import generators
from benchmark import parsing
from benchmark.config import Config
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.stages import StageResult, pull
from benchmark.tracking.session import Session
from benchmark.training.models import create_generator, draw, extractor_config, features, load_segmenter, pooled_dice
from generators.base import Generator

PASSED = (0.50, 0.65, 0.80)


def unet_dice(config: Config, session: Session, synthetic: Path | None, seeds: int) -> float:
    """Mean test Dice of U-Nets trained on a set alone or, without one, on the cohort's own slices."""
    arm = {"train_segmenter.train_on": "synthetic" if synthetic else "real"}
    if synthetic:
        arm["train_segmenter.synthetic"] = str(synthetic)
    cells = [config.replace({**arm, "train_segmenter.seed": seed}) for seed in range(seeds)]
    return float(np.mean([pull("evaluate", cell, session).headline["dice"] for cell in cells]))


def write_set(model: Generator, config: Config, real: SliceSet, count: int, folder: Path) -> SliceSet:
    """`count` slices of the generator."""
    name = config.train_generator.model
    images, labels, _ = draw(model, range(count), config.train_generator.annotation)
    spacing = np.median(list(real.meta["spacing"].values()), axis=0).tolist()
    meta = {"kind": "synthetic", "cohort": real.meta["cohort"], "simulated": True, "spacing": {name: spacing}}
    with SliceWriter(folder, real.meta["image_size"], meta) as writer:
        writer.append(images, labels, subject=name, seed=list(range(count)), z=-1, split="synthetic", off_code=0.0)
    return SliceSet.open(folder)


def snapshots(
    training: StageResult, config: Config, session: Session, real: SliceSet, samples: int, seeds: int, out: Path
) -> pd.DataFrame:
    """The generator's table in `out`, with a row for every snapshot: its curve's numbers, candidates, and Dice."""
    name = config.train_generator.model
    path = out / f"{name}.csv"
    done = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["seen"])
    model = create_generator(config, real.meta["image_size"])
    extractor_folder = pull("train_segmenter", extractor_config(config), session).path
    extractor = load_segmenter(extractor_config(config), real.meta["image_size"], extractor_folder)
    validation = features(extractor, real.images[real.rows("validation")])
    for row in pd.read_csv(training.path / "curve.csv").to_dict("records"):
        seen = int(row["seen"])
        if seen in set(done["seen"]):
            continue
        model.load_weights(load_file(training.path / "snapshots" / f"{seen:09d}.safetensors"))
        made = write_set(model, config, real, samples, out / name / f"{seen:09d}")
        drawn = features(extractor, made.images)
        row |= {
            "label_dice": float(pooled_dice(extractor, made, np.arange(len(made))).mean()),
            "feature_mean_distance": float(np.linalg.norm(drawn.mean(0) - validation.mean(0))),
            "dice": unet_dice(config, session, made.folder, seeds),
        }
        done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
        done.to_csv(path, index=False)
        print(f"{name}: {row['training_seconds'] / 60:.1f} min, {seen:,} images: Dice {row['dice']:.3f}", flush=True)
    return done


def leaderboard(tables: dict[str, pd.DataFrame]) -> str:
    """A Markdown row per generator, the best first."""
    lines = ["| generator | images/s | minutes to 0.50 | 0.65 | 0.80 | best ratio |", "| --- " * 6 + "|"]
    for name, rows in sorted(tables.items(), key=lambda item: -item[1]["ratio"].max()):
        minutes = rows["training_seconds"] / 60
        first = [minutes[rows["ratio"] >= level].min() for level in PASSED]
        best = rows["ratio"].idxmax()
        cells = [f"{when:.1f}" if pd.notna(when) else "–" for when in first]
        speed = rows["seen"].iloc[-1] / rows["training_seconds"].iloc[-1]
        lines.append(
            f"| {name} | {speed:.0f} | {' | '.join(cells)} | {rows['ratio'][best]:.2f} at {minutes[best]:.1f} minutes |"
        )
    return "\n".join(lines)


def judges(tables: dict[str, pd.DataFrame]) -> str:
    """A Markdown row per candidate: how its order of snapshots agrees with that of their Dice, by generator."""
    candidates = {"judge_dice": 1, "kernel_distance": -1, "label_dice": 1, "feature_mean_distance": -1, "seen": 1}
    lines = [f"| candidate | {' | '.join(tables)} |", "| --- " * (len(tables) + 1) + "|"]
    for column, sign in candidates.items():
        found = [spearmanr(sign * rows[column], rows["dice"]).statistic for rows in tables.values()]
        lines.append(f"| {column} | {' | '.join(f'{rho:.2f}' for rho in found)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=generators.names())
    parser.add_argument("--seeds", type=int, default=3, help="U-Nets for each snapshot")
    parser.add_argument("--samples", type=int, default=2500, help="slices drawn from each snapshot")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    given = {"preset": "cpu", **dict(setting.split("=", 1) for setting in arguments.set)}

    config = parsing.parse("evaluate", given)
    out = config.common.work_dir / "quality"
    out.mkdir(parents=True, exist_ok=True)
    session = Session.begin(config.common.work_dir)
    real = SliceSet.open(pull("prepare", config, session).path)
    of_real = unet_dice(config, session, None, arguments.seeds)
    print(f"real slices: Dice {of_real:.3f}", flush=True)
    tables = {}
    for name in arguments.names:
        chosen = parsing.parse("evaluate", {**given, "train_generator.model": name})
        training = pull("train_generator", chosen, session)
        rows = snapshots(training, chosen, session, real, arguments.samples, arguments.seeds, out)
        tables[name] = rows.assign(ratio=rows["dice"] / of_real)
    print(leaderboard(tables), judges(tables), sep="\n\n")


if __name__ == "__main__":
    main()
