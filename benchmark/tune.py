"""Tuning: an Optuna study for a generator or a segmenter, each trial a training like any other.

A trial's training has a fingerprint of its own, so a trial that was killed goes on from its last checkpoint when it is
tried again, and one whose training is finished costs nothing. Objectives come from validation subjects only.
"""

import hashlib
import json
import shutil
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
import yaml
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

import generators
import segmenters
from analysis.text import csv_frame
from benchmark.config import AUTO, Config
from benchmark.errors import GivenUp, UserError
from benchmark.names import for_file, for_store
from benchmark.parsing import resolve_model
from benchmark.stages import CallResult, fingerprint, needs, pull, trained
from benchmark.stages.train_generator import CopiedFromStart
from benchmark.studies import halving, open_storage
from benchmark.tracking import runs as tracking
from benchmark.tracking.runs import StageRun
from benchmark.tracking.session import Session
from benchmark.training import precision
from benchmark.training.loop import Diverged
from benchmark.training.order import mix
from benchmark.training.processes import Team

COPIED_BY_CHANCE = 0.05  # of a generator that copies nobody: PROTOCOL, section 4
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
PRUNED = {GivenUp: "given up", Diverged: "diverged", CopiedFromStart: "copied"}  # why, as trials and runs are marked


def tune(config: Config, team: Team | None = None) -> CallResult:
    """Runs trials until the study has as many as asked for; the same call on several machines shares the work.

    Leaves best.yaml, a preset that lists the best settings, trials.csv and Optuna's plots in work/tune/<study>.
    Raises UserError for a model without a search space, a database that cannot be used, and where no trial met the
    constraint.
    """
    space = search_space(config.tune.model)
    stage, first = tuned(config, {})
    fingerprint(stage, first)  # refuses what is wrong before anything is made
    precision.keep(config)
    digest = fingerprint(stage, first)
    name = for_store(config.tune.study or f"{config.tune.model}-{_objective(config)}-{digest[:8]}")
    folder = config.common.work_dir / "tune" / for_file(name)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    session = Session.begin(config.common.work_dir, team)
    tags = {"model": config.tune.model, "cohort": config.prepare.cohort, "seed": config.tune.seed, "study": name}
    settings = {**config.tune.model_dump(mode="json", exclude={"storage"}), "space": space}
    own_tags = {**tags, "stage": "tune", "commit": tracking.commit()}
    precision.warn_of_mismatch(config, trained(stage, first))
    with session.open_run(f"tune {config.tune.model}", own_tags, settings) as tracked:
        nested = session.within(tracked)
        study = _study(config, name, space, digest)
        for need in needs(stage, first).values():  # here, so that no trial's time or snapshots are theirs
            pull(*need, nested)
        _run_trials(study, config, space, tags, nested)
        best = _best(study)
        _write(study, best, config, folder, tracked)
        headline = {
            **_counts(study),
            "best_trial": best.number,
            "best_objective": best.value,
            "best_preset": str(folder / "best.yaml"),
            "tune_seconds": round(time.monotonic() - started, 1),
        }
        tracked.log_summary(headline)
    print(f"tune: {folder / 'best.yaml'}", file=sys.stderr)
    return CallResult("tune", tracked.run_id, folder, False, headline)


def _run_trials(
    study: optuna.Study, config: Config, space: dict[str, tuple | list], tags: dict[str, Any], session: Session
) -> None:
    """Trials until the study has as many as asked for, whoever ran them."""

    def objective(trial: optuna.Trial) -> float:
        # a function of the trial's number: workers with one seed would begin with the same settings
        study.sampler = optuna.samplers.TPESampler(seed=mix(config.tune.seed, trial.number) % 2**32)
        chosen = {key: _suggest(trial, key, within) for key, within in space.items()}
        try:
            return _attempt(config, trial, chosen, tags, session)
        except KeyboardInterrupt:  # a killed worker's trial is tried again when its heartbeat is missed
            study.enqueue_trial(chosen)
            raise

    def announce(study: optuna.Study, trial: FrozenTrial) -> None:
        outcome = f"{trial.value:.4g}" if trial.state == TrialState.COMPLETE else _end(trial)
        print(f"[{len(_ended(study))}/{config.tune.trials}] trial {trial.number}: {outcome}", file=sys.stderr)

    if len(_ended(study)) < config.tune.trials:
        study.optimize(objective, callbacks=[announce, MaxTrialsCallback(config.tune.trials, states=ENDED)])


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=ENDED)


def _counts(study: optuna.Study) -> dict[str, int]:
    ends = Counter(map(_end, _ended(study)))
    return {
        "trials": ends.total(),
        "given_up": ends["given up"],
        "diverged": ends["diverged"],
        "copied": ends["copied"],
    }


def search_space(model: str) -> dict[str, tuple | list]:
    """Key → (low, high), (low, high, "log"), or a list of choices: `search_space` of the model's configuration."""
    registry = generators if model in generators.names() else segmenters
    space = getattr(registry.load(model).Config, "search_space", {})
    if not space:
        raise UserError(f"{model} declares no search_space in its configuration, so there is nothing to tune")
    return space


def tuned(config: Config, chosen: dict[str, Any]) -> tuple[str, Config]:
    """The training of the model with these settings over those of the configuration."""
    model = config.tune.model
    is_generator = model in generators.names()
    given = {**config.models.get(model, {}), **chosen}
    config = config.model_copy(update={"models": {**config.models, model: given}})
    if is_generator:
        return "train_generator", config.replace({"train_generator.model": model})
    return "train_segmenter", config.replace({"train_segmenter.segmenter": model})


def _objective(config: Config) -> str:
    return config.tune.objective if config.tune.model in generators.names() else "dice"


def _study(config: Config, name: str, space: dict[str, tuple | list], digest: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # warnings only repeat the errors that end a study
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats and plots: old and in use
    storage = open_storage(config.tune.storage or f"sqlite:///{config.common.work_dir / 'tune' / 'studies.db'}")
    stage, _ = tuned(config, {})
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        load_if_exists=True,
        direction=_direction(config),
        pruner=halving(getattr(config, stage).snapshots) if config.tune.prune else optuna.pruners.NopPruner(),
    )
    _refuse_another(study, config, space, digest)
    return study


def _direction(config: Config) -> str:
    return "minimize" if _objective(config) == "fidelity" else "maximize"


def _refuse_another(study: optuna.Study, config: Config, space: dict[str, tuple | list], digest: str) -> None:
    """Raises UserError for a study whose trials cannot be compared with those of this call; its best may be its worst.

    One without our attributes, by an earlier version or another program, is told by its direction and its parameters.
    """
    settings = hashlib.sha256(json.dumps([digest, space], sort_keys=True).encode()).hexdigest()[:16]
    ours = {"model": config.tune.model, "objective": _objective(config), "settings": settings}
    found = {key: study.user_attrs[key] for key in ours if key in study.user_attrs}
    directions = ", ".join(direction.name.lower() for direction in study.directions)
    searched = {key for trial in study.get_trials(deepcopy=False) for key in trial.params}
    if directions != _direction(config):
        reason = f"it {directions}s, and this call {_direction(config)}s {ours['objective']} of {ours['model']}"
    elif (searched and searched != space.keys()) or (found and found["model"] != ours["model"]):
        reason = (
            f"it is one of {found.get('model') or ', '.join(sorted(searched))}, and this call tunes {ours['model']}"
        )
    elif found and found != ours:
        reason = "its trials had other settings (data, budget, objective or search space), so none compares with these"
    else:
        for key in ours.keys() - found.keys():
            study.set_user_attr(key, ours[key])
        return
    raise UserError(f"study '{study.study_name}' cannot go on: {reason}; give another name with study=NAME")


def _suggest(trial: optuna.Trial, key: str, within: tuple | list) -> Any:
    if isinstance(within, list):
        return trial.suggest_categorical(key, within)
    low, high, *scale = within
    suggest = trial.suggest_int if isinstance(low, int) else trial.suggest_float
    return suggest(key, low, high, log="log" in scale)


def _attempt(
    config: Config, trial: optuna.Trial, chosen: dict[str, Any], tags: dict[str, Any], session: Session
) -> float:
    """The trial's objective, in an MLflow run of its own.

    Raises TrialPruned, also for a training that diverged or copied from its first snapshot on: from a trial that failed
    the sampler would learn nothing.
    """
    pruned: optuna.TrialPruned | None = None
    with session.open_run(f"trial {trial.number}", {**tags, "stage": "trial"}, chosen) as tracked:
        try:
            value = _measure(config, trial, chosen, session.within(tracked))
            tracked.log_summary({"objective": value})
        except tuple(PRUNED) as error:
            how = PRUNED[type(error)]
            tracked.set_tags({how: str(error)})
            trial.set_user_attr(how, str(error))
            pruned = optuna.TrialPruned(str(error))
    if pruned:
        raise pruned
    return value


def _end(trial: FrozenTrial) -> str:
    """How a trial without an objective ended."""
    return next((how for how in PRUNED.values() if how in trial.user_attrs), "failed")


def _measure(config: Config, trial: optuna.Trial, chosen: dict[str, Any], session: Session) -> float:
    stage, settled = tuned(config, chosen)
    sign = -1 if _direction(config) == "minimize" else 1  # a snapshot's score, a Dice, is the better the higher

    def report(snapshot: int, score: float) -> None:
        trial.report(sign * score, snapshot)
        if snapshot < getattr(config, stage).snapshots and trial.should_prune():  # at the last nothing is saved by it
            raise GivenUp(f"at snapshot {snapshot}: it lagged behind the other trials")

    result = pull(stage, settled, session, watch=report)
    if stage == "train_segmenter":
        return result.headline["best_validation_dice"]
    if "kept_copied_share" in result.headline:  # a single training subject has none
        trial.set_constraint("copied_share", result.headline["kept_copied_share"] - COPIED_BY_CHANCE)
    return result.headline["kept_kernel_distance" if config.tune.objective == "fidelity" else "kept_judge_dice"]


def _best(study: optuna.Study) -> FrozenTrial:
    try:
        return study.best_trial
    except ValueError as error:
        ended = _ended(study)
        copied = sum(
            "copied" in trial.user_attrs or any(value > 0 for value in trial.constraints.values()) for trial in ended
        )
        raise UserError(
            f"study {study.study_name}: none of {len(ended)} trials can be chosen: {copied} copied more training "
            f"slices than the {COPIED_BY_CHANCE:.0%} that chance gives, the others were pruned or diverged; "
            "allow more trials, or a larger budget"
        ) from error


def _write(study: optuna.Study, best: FrozenTrial, config: Config, folder: Path, tracked: StageRun) -> None:
    """best.yaml, trials.csv and Optuna's plots, in the study's folder and on the tracking server."""
    model = config.tune.model
    mine = folder / tracked.run_id  # other workers of the study write theirs
    mine.mkdir()
    resolve_model(config, model, **best.params)  # what is written can be read
    kind, stage = ("model", "train_generator") if model in generators.names() else ("segmenter", "train_segmenter")
    preset = {
        **({} if config.common.preset == AUTO else {"extends": config.common.preset}),
        stage: {kind: model},
        "analyze": {kind: [model]},
        model: {**config.models.get(model, {}), **best.params},
    }
    (mine / "best.yaml").write_text(yaml.safe_dump(preset, sort_keys=False))
    csv_frame(study.trials_dataframe()).to_csv(mine / "trials.csv", index=False)
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    target = "kernel distance" if _objective(config) == "fidelity" else "validation Dice"
    at_snapshots = f"{'−' * (_direction(config) == 'minimize')}validation Dice"
    drawings = {
        "history": lambda: plots.plot_optimization_history(study, target_name=target),
        "snapshots": lambda: plots.plot_intermediate_values(study).set(xlabel="snapshot", ylabel=at_snapshots),
        "parallel": lambda: plots.plot_parallel_coordinate(study, target_name=target),
    }
    if len(ended) > 1 and len({trial.value for trial in ended}) > 1:  # importances explain a variance
        drawings["importances"] = lambda: plots.plot_param_importances(study, target_name=target)
    for name, draw in drawings.items():
        draw()
        plt.gcf().set_size_inches(9, 5)
        axes = plt.gcf().axes[0]
        axes.set_title(axes.get_title(), pad=28)  # above the legend of what met the constraint
        plt.gcf().savefig(mine / f"{name}.png", dpi=120, bbox_inches="tight")
        plt.close("all")
    tracked.log_artifact(mine, "study")
    shutil.copytree(mine, folder, dirs_exist_ok=True)
