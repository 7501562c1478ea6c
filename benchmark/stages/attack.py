"""A synthetic set, and the generator behind it, attacked: who tells from them whom they were trained on?"""

import json
import time
from typing import Any

import numpy as np
import pandas as pd

import generators
from analysis import attacks
from analysis.attacks_statistics import judge_all, linked_shares
from analysis.neighbours import Rows
from analysis.text import csv_frame
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.slices import SliceSet
from benchmark.stages import Headline, RunningTask, Settings
from benchmark.stages.sample import TRAINING, trainings
from benchmark.training.canaries import read_canaries
from benchmark.training.cohort import seen_by
from benchmark.training.critics import NoCritic, familiarity, load_critic
from benchmark.training.devices import pick_device

SCHEMA = 4  # 4: what chance links, canaries among the pool


def settings(config: Config) -> Settings:
    keys = config.attack.model_dump(mode="json", exclude={"synthetic", "memory_gib"})
    return {**keys, "synthetic": synthetic.settings_of(config, config.attack.synthetic)}


def needs(config: Config) -> dict[str, Need]:
    """The set and, where it is a generator's, the trainings behind it, for the attack that needs their weights."""
    found = {"prepare": Need("prepare", config), **synthetic.needs_of(config, config.attack.synthetic)}
    if generator := synthetic.generator_of(config, config.attack.synthetic):
        found |= trainings(config.replace({"train_generator.model": generator}))
    return found


def tags(config: Config) -> dict[str, Any]:
    return synthetic.tags_of(config, config.attack.synthetic)


def run(task: RunningTask) -> Headline:
    """Writes attack.json: a verdict per attack, or the reason why there is none, and the seconds that each took; and
    patients.csv, every patient's scores. Members are patients that the generator saw, the others test patients;
    validation patients, who chose the snapshot, serve as reference alone."""
    config, folder, tracked = task.config, task.folder, task.tracked
    keys = config.attack
    real = SliceSet.open(task.folders["prepare"])
    made = synthetic.open_synthetic(config, keys.synthetic, task.folders)
    patients = real.index["patient"].to_numpy(str)
    split = seen_by(config, keys.synthetic, real), real.rows("test"), real.rows("validation")
    members, held_out, third = (spaced(rows, patients, keys.slices) for rows in split)
    sets = made.images, Rows(real.images, members), patients[members], Rows(real.images, held_out), patients[held_out]
    search = {"device": pick_device(config.common.device), "memory_gib": keys.memory_gib}
    reference = {"reference": Rows(real.images, third)} if len(third) else {}

    people, seconds, reasons = attacks.patients_of(patients[members], patients[held_out]), {}, {}
    canaries: dict[str, int] = {}
    for name, path in task.folders.items():
        if name.startswith(TRAINING):
            canaries |= read_canaries(path)
    people["times"] = [canaries.get(patient, 1) for patient in people["patient"]]
    for name, attack in (
        ("membership", lambda: attacks.membership(*sets, **reference, **search)),
        ("attribute", lambda: attacks.attributes(*sets, **reference, **search)),
        ("linkage", lambda: attacks.linkage(*sets, **search)),
        ("white_box", lambda: _white_box(task, real, members, held_out)),
    ):
        started = time.monotonic()
        try:
            people = people.merge(attack(), on=["patient", "member"], validate="one_to_one")
        except (attacks.TooFewPatients, NoCritic) as error:
            reasons[name] = str(error)
        seconds[name] = round(time.monotonic() - started, 3)

    usual = people[~people["member"] | (people["times"] == 1)]
    pool = int(people["member"].value_counts().min())  # canaries among them: linkage knows no difference
    linked = linked_shares(usual, pool) if "linked" in people else None
    verdicts, unjudged = judge_all(people.drop(columns="linked", errors="ignore"), seed=keys.seed)
    found = {
        "attacks": verdicts,
        "linked": linked,
        "critic": _critic_of(config),
        "reasons": reasons | unjudged,
        "seconds": seconds,
        "patients": {"members": int(usual["member"].sum()), "held_out": int((~usual["member"]).sum())}
        | {"reference": len(np.unique(patients[third])), "canaries": len(canaries)},
        "slices": {"synthetic": len(made), "members": len(members), "held_out": len(held_out), "reference": len(third)},
    }
    (folder / "attack.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    csv_frame(people).to_csv(folder / "patients.csv", index=False)
    for name in ("attack.json", "patients.csv"):
        tracked.log_artifact(folder / name)
    return {
        **{
            key: {name: verdict[key] for name, verdict in verdicts.items()} for key in ("auc", "risk", "true_positives")
        },
        "attack_seconds": seconds,
        **found["patients"],
    }


def _critic_of(config: Config) -> str | None:
    """The network that the white-box attack asks: one of released weights, or "discriminator", which is in none."""
    generator = synthetic.generator_of(config, config.attack.synthetic)
    return None if generator is None else generators.load(generator).critic


def spaced(rows: np.ndarray, patients: np.ndarray, most: int) -> np.ndarray:
    """Of each patient's rows, in their order, at most so many, evenly spaced from the first to the last."""
    chosen = []
    for patient in dict.fromkeys(patients[rows]):
        own = rows[patients[rows] == patient]
        chosen.append(own[np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int)])
    return np.concatenate(chosen) if chosen else rows


def _white_box(task: RunningTask, real: SliceSet, members: np.ndarray, held_out: np.ndarray) -> pd.DataFrame:
    """`white_box`: what the generator's critic, or the mean of an ensemble's, makes of a patient's slices, on average.
    Raises NoCritic where there is none to ask."""
    config, patients = task.config, real.index["patient"].to_numpy(str)
    generator = synthetic.generator_of(config, config.attack.synthetic)
    if generator is None:
        raise NoCritic("the set was sent without the generator that made it")
    config = config.replace({"train_generator.model": generator})
    coding, device = config.train_generator.annotation, pick_device(config.common.device)
    rows, asked = np.concatenate([members, held_out]), []
    for name, path in task.folders.items():
        if name.startswith(TRAINING):
            model = load_critic(config, real.meta["image_size"], path).to(device)
            asked.append(familiarity(model, real, rows, coding, config.attack.seed))
    people = attacks.patients_of(patients[members], patients[held_out])
    people["white_box"] = attacks.by_patient(np.mean(asked, axis=0), patients[rows], people, "mean")
    return people
