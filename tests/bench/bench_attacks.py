"""Attacks on what must be caught and on what must not: the phantom at 32 px, 26 held-out and 6 reference patients.

    PYTHONPATH=. python tests/bench/bench_attacks.py [NAME ...] [--set KEY=VALUE ...]

Caught: generators trained until they overfit on 8 patients (without augmentation, the last snapshot), by default the
diffusion model, 150,000 images: an AUC of 0.9 at least. Not caught: a set of as many slices that the simulator drew of
new subjects: no attack's p, adjusted for all, is below 0.05. Prints the report's table, with seconds; exits with 1 if
either fails. Settings are the preset `cpu`'s; --set train_generator.canaries=1, say, changes them. It goes on where it
was stopped.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from analysis.attacks_tables import attack_table
from benchmark import parsing
from benchmark.data.slices import SliceSet
from benchmark.stages import pull
from benchmark.tracking.session import Session

COHORT = {  # 32 subjects for training, 6 for validation, 26 for testing
    "preset": "cpu",
    "phantom_subjects": "64",
    "test_share": "0.4",
}
OVERFIT = {
    "subjects": "8",
    "train_generator.images": "150000",
    "snapshots": "1",
    "samples": "600",
    "diffusion.augmentation": "0",
    "stylegan2.augmentation": "false",
    "stylegan3.augmentation": "false",
}
CAUGHT, ALPHA = 0.9, 0.05


def attacked(session: Session, given: dict[str, str]) -> dict:
    result = pull("attack", parsing.parse("attack", given), session)
    return json.loads((result.path / "attack.json").read_text())


def as_synthetic(drawn: Path, folder: Path) -> Path:
    """A copy of prepared slices that says that they are synthetic: no others are attacked."""
    shutil.copytree(drawn, folder, dirs_exist_ok=True)
    meta = json.loads((folder / "meta.json").read_text()) | {"kind": "synthetic"}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["diffusion"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    more = dict(setting.split("=", 1) for setting in arguments.set)

    session = Session.begin(parsing.parse("attack", COHORT | more).common.work_dir)
    found = {}
    for name in arguments.names:
        found[name] = {"all": attacked(session, COHORT | OVERFIT | {"synthetic": name} | more)}
    of_cohort = {key: value for key, value in more.items() if parsing.places("prepare", key)}
    strangers = parsing.parse("prepare", COHORT | of_cohort | {"seed": "1"})
    drawn = SliceSet.open(pull("prepare", strangers, session).path)
    sent = as_synthetic(drawn.folder, drawn.folder.with_name("strangers"))
    found["new subjects"] = {"all": attacked(session, COHORT | {"synthetic": str(sent)} | more)}
    print(attack_table(found).markdown())

    missed = [
        name
        for name in arguments.names
        if max(verdict["auc"] for verdict in found[name]["all"]["attacks"].values()) < CAUGHT
    ]
    accused = [
        name for name, verdict in found["new subjects"]["all"]["attacks"].items() if verdict["p_adjusted"] < ALPHA
    ]
    print(f"not caught although over-trained: {missed or 'none'}; caught although new subjects: {accused or 'none'}")
    sys.exit(1 if missed or accused else 0)


if __name__ == "__main__":
    main()
