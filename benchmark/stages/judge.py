"""Audits and attacks of a set and of what is left of it → a verdict on each limit, before anything costly is made.

No call's own stage: `release` needs it first, so that what may not leave is refused before segmenters are trained.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.limits import Limits, Verdict, judge_images, judge_weights
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.errors import UserError
from benchmark.release.pages import standing_against
from benchmark.stages import Headline, RunningTask, Settings

SCHEMA = 2  # 2: what an attack finds fails; sent sets, canaries, attacks before the filter
VERDICTS = "verdicts.json"
KEYS = ("force", "most_copied", "most_auc", "most_removed", "least_found", "least_patients")  # of release, read here


def settings(config: Config) -> Settings:
    return config.release.model_dump(mode="json", include={*KEYS, "weights"})


def needs(config: Config) -> dict[str, Need]:
    """What is left of the set, and audit and attack of that and of the whole."""
    whole = config.release.synthetic or config.train_generator.model
    found = {"select": Need("select", config.replace({"select.synthetic": whole}))}
    for prefix, name in (("", synthetic.selected(config, whole)), ("whole_", whole)):
        judged = config.replace({"audit.synthetic": name, "attack.synthetic": name})
        found |= {f"{prefix}audit": Need("audit", judged), f"{prefix}attack": Need("attack", judged)}
    return found


def tags(config: Config) -> dict[str, Any]:
    return synthetic.tags_of(config, config.release.synthetic)


def run(task: RunningTask) -> Headline:
    """Writes verdicts.json. Raises UserError where a limit is not kept, unless forced."""
    keys, selection = task.config.release, task.inputs["select"].headline
    found = read_found(task.folders)
    removed = None if task.config.select.keep == "all" else 1 - selection["samples"] / selection["whole"]
    sent = synthetic.generator_of(task.config, keys.synthetic) is None
    limits = Limits(keys.most_copied, keys.most_auc, keys.least_found, keys.least_patients, keys.most_removed)
    verdicts = [
        *judge_images(found["audit"], found["attack"], found["whole_attack"], removed, limits, sent=sent),
        *judge_weights(found["whole_audit"], found["whole_attack"], limits, sent=sent),
    ]
    failed = standing_against(verdicts, keys.weights)
    if failed and not keys.force:
        raise UserError(refusal(failed))
    (task.folder / VERDICTS).write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1))
    task.tracked.log_artifact(task.folder / VERDICTS)
    return {"limits": len(verdicts), "not_kept": [f"{verdict.about}: {verdict.sentence()}" for verdict in failed]}


def read_found(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What audit and attack found of what is left of the set, and of the whole, by the names of the parents."""
    return {
        name: json.loads((folders[name] / f"{name.removeprefix('whole_')}.json").read_text())
        for name in ("audit", "attack", "whole_audit", "whole_attack")
    }


def refusal(failed: list[Verdict]) -> str:
    """Names each limit that is not kept, with its value, and what can be done."""
    listed = "; ".join(f"{verdict.about}: {verdict.sentence()}" for verdict in failed)
    return (
        f"no package was made, for {len(failed)} of its limits are not kept: {listed}. Train on more patients, or "
        "shorter; or decide otherwise with force=true, which says so on every page of the package"
    )
