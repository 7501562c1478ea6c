"""What attack.json holds, of scores with a planted strength."""

import numpy as np
import pandas as pd

from analysis.attacks_statistics import judge_all, linked_shares

COLUMNS = ("distance", "ratio", "attribute", "link", "white_box")


def found(strength, seed=0, canaries=0, columns=COLUMNS, critic="denoiser", **reasons):
    """attack.json of 30 members and 12 held-out patients, members' scores higher by so many standard deviations."""
    rng = np.random.default_rng(seed)
    people = pd.DataFrame({"patient": [f"p{i}" for i in range(42)], "member": np.arange(42) < 30, "times": 1})
    people.loc[: 2 * canaries - 1, "times"] = np.repeat([16, 4], canaries)
    for name in columns:
        people[name] = rng.normal(size=42) + strength * people["member"] * (1 + np.log2(people["times"]))
    people["linked"] = np.where(people["member"], 0.9, 0.6)
    attacks, unjudged = judge_all(people.drop(columns="linked"))
    return {
        "attacks": attacks,
        "linked": linked_shares(people, int(people["member"].value_counts().min())),
        "critic": None if "white_box" in reasons else critic,
        "reasons": unjudged | reasons,
        "seconds": {"membership": 12.0, "linkage": 1.4},
        "patients": {"members": 30, "held_out": 12, "reference": 4, "canaries": 2 * canaries},
    }
