"""A call → its configuration: presets that list only differences, and where a key on the command line goes.

A bare key goes to the stage that is called if it has that key, otherwise to the nearest stages that it pulls;
`STAGE.key` and `MODEL.key` name one place. Later wins: defaults, then the preset, then the command line.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError

import generators
import segmenters
from benchmark.config import AUTO, PHANTOM, Config
from benchmark.errors import UserError
from benchmark.preset_files import chain
from benchmark.values import split_commas

# Which sections a stage reads, nearest first: a bare key goes to the first group that has it.
REACH: dict[str, list[tuple[str, ...]]] = {
    "prepare": [("prepare",)],
    "import_samples": [("import_samples",), ("prepare",)],
    "train_generator": [("train_generator",), ("prepare",), ("extractor",)],
    "sample": [("sample",), ("train_generator",), ("prepare",), ("extractor",)],
    "train_segmenter": [("train_segmenter",), ("sample",), ("train_generator", "prepare"), ("extractor",)],
    "evaluate": [("evaluate",), ("train_segmenter",), ("sample",), ("train_generator", "prepare"), ("extractor",)],
    "audit": [("audit",), ("sample",), ("train_generator",), ("prepare",), ("extractor",)],
    "fidelity": [("fidelity",), ("sample",), ("train_generator",), ("prepare",), ("extractor",)],
    "attack": [("attack",), ("sample",), ("train_generator",), ("prepare",), ("extractor",)],
    "select": [("select",), ("audit", "attack"), ("sample",), ("train_generator",), ("prepare",), ("extractor",)],
    "release": [
        ("release",),
        ("select",),
        ("audit", "attack"),
        ("sample",),
        ("train_generator",),
        ("train_segmenter",),
        ("analyze",),
        ("prepare",),
        ("extractor",),
    ],
    "sync": [("sync",)],
    "tune": [("tune",), ("train_generator", "train_segmenter", "prepare"), ("extractor",)],
    "memorization": [("memorization", "benchmark"), ("train_generator", "prepare"), ("extractor", "report")],
    **{
        stage: [
            ("analyze", "report", "benchmark"),
            ("train_generator", "train_segmenter", "sample", "audit", "attack", "prepare"),
            ("fidelity", "extractor"),
        ]
        for stage in ("analyze", "report", "benchmark")
    },
}
STAGES = tuple(REACH)
LARGEST = 10**9  # number that a model's key takes
MOST_FINDINGS = 10  # that one message lists

# Keys that the experiment's trainings set themselves; a call for it cannot.
SET_BY_MEMORIZATION = frozenset(
    f"train_generator.{key}" for key in ("model", "subjects", "keep_snapshots", "stop_when_copied")
)

# Keys that the table's cells set themselves; a call for the whole table cannot.
SET_BY_TABLE = frozenset(
    f"{section}.{key}"
    for section, keys in {
        "train_generator": ["model"],
        "train_segmenter": [
            "segmenter",
            "train_on",
            "synthetic",
            "real_subjects",
            "synthetic_share",
            "augment",
            "seed",
        ],
        "evaluate": ["snapshot"],
        "audit": ["synthetic"],
        "fidelity": ["synthetic"],
        "attack": ["synthetic"],
    }.items()
    for key in keys
)


def stage_help(stage: str) -> str:
    """What the stage does: the first line of its section's docstring."""
    return (Config.model_fields[stage].annotation.__doc__ or "").strip()


SECTIONS = tuple(name for name in Config.model_fields if name != "models")


def _fields(section: str) -> dict[str, Any]:
    return {field.alias or name: field for name, field in Config.model_fields[section].annotation.model_fields.items()}


def reachable(stage: str) -> Iterator[tuple[str, str, Any]]:
    """(section, key, field) of every key that the stage or one that it pulls takes, nearest first, common keys last."""
    fixed = SET_BY_TABLE if "analyze" in REACH[stage][0] else SET_BY_MEMORIZATION if stage == "memorization" else ()
    for group in (*REACH[stage], ("common",)):
        for section in group:
            for key, field in _fields(section).items():
                if f"{section}.{key}" not in fixed:
                    yield section, key, field


def places(stage: str, key: str) -> list[str]:
    """The sections to which a bare key goes."""
    for group in (*REACH[stage], ("common",)):
        owners = [section for section in group if key in _fields(section)]
        if stage == "memorization":
            owners = [section for section in owners if f"{section}.{key}" not in SET_BY_MEMORIZATION]
        if owners:
            return owners
    return []


def nearest(key: str, known: Iterable[str]) -> str:
    """'; did you mean …?' with the closest known key, or nothing where none is close."""
    known = list(known)
    match = difflib.get_close_matches(key[:100], known, n=1, cutoff=0.55)
    if not match:  # a bare model key: channel_base → stylegan3.channel_base
        match = [name for name in known if name.rpartition(".")[2] == key][:1]
    return f"; did you mean '{match[0]}'?" if match else ""


def model_names() -> list[str]:
    return [*generators.names(), *segmenters.names()]


def model_fields(name: str) -> dict[str, Any]:
    """The fields of a model's configuration, by key. Imports the model."""
    registry = generators if name in generators.names() else segmenters
    return registry.load(name).Config.model_fields


def model_keys() -> list[str]:
    """'MODEL.key' for every key of every registered model. Imports them all."""
    return [f"{name}.{key}" for name in model_names() for key in model_fields(name)]


def _assign(tree: dict[str, dict[str, Any]], stage: str, key: str, value: Any, where: str) -> None:
    """Puts one bare or dotted key into the tree of sections; raises UserError where nothing takes it."""
    section, _, rest = key.rpartition(".")
    rest = rest or key
    if section in model_names() and not key.endswith("."):
        tree["models"].setdefault(section, {})[rest] = value
        return
    if section:
        targets = [name for name, known, _ in reachable(stage) if (name, known) == (section, rest)]
    else:
        targets = places(stage, key)
    if not targets:
        known = [name for _, name, _ in reachable(stage)] + [f"{name}.{k}" for name, k, _ in reachable(stage)]
        hint = nearest(key, known) or nearest(key, model_keys())
        raise UserError(f"{where}: unknown key '{key[:100]}' for {stage}{hint}")
    for target in targets:
        tree[target][rest] = value


def read_preset(name: str) -> dict[str, dict[str, Any]]:
    """The preset's sections, those that it `extends` underneath.

    Raises UserError for a preset that is not there, is not YAML, or names an unknown section or key.
    """
    merged: dict[str, dict[str, Any]] = {}
    known_sections = [*SECTIONS, *model_names()]
    for path, sections in chain(name):
        for section, values in sections.items():
            if section not in known_sections:
                raise UserError(f"{path}: unknown section '{section}'{nearest(section, known_sections)}")
            if section not in model_names():
                for key in values.keys() - _fields(section).keys():
                    raise UserError(f"{path}: unknown key '{section}.{key}'{nearest(key, _fields(section))}")
            merged.setdefault(section, {}).update(values)
    return merged


def _preset(given: Mapping[str, Any]) -> str:
    """The call's preset. A demonstration's budgets would make a toy of somebody's cohort, so only the phantom has them
    unasked."""
    preset = given.get("preset", AUTO)
    if not isinstance(preset, str) or not preset.strip():
        raise UserError("preset is empty: give a preset's name or a .yaml file, or leave the key out")
    if preset != AUTO:
        return preset
    data = [str(given[key]) for key in ("data", "prepare.data", "analyze.data") if key in given]
    return "demo" if all(value == PHANTOM for value in data) else AUTO


def _message(error: ValidationError) -> str:
    """Pydantic's findings, one line each: the key, what was wrong, the value."""
    lines = []
    for finding in error.errors()[:MOST_FINDINGS]:
        key = ".".join(str(part) for part in finding["loc"])
        said = finding["msg"].removeprefix("Value error, ")
        said = said if len(said) < 600 else f"{said[:599]}…"
        lines.append(f"{key}: {said} (got {_shown(finding['input'])})" if key else said)  # else of several keys at once
    if (more := error.error_count() - len(lines)) > 0:
        lines.append(f"… and {more} more")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) < 200 else f"{shown[:199]}…"


def parse(stage: str, given: Mapping[str, Any]) -> Config:
    """The configuration of a call: defaults, then the preset, then the given keys.

    Raises UserError for an unknown key (naming the nearest known one) and for a bad value.
    """
    if stage not in STAGES:
        raise UserError(f"unknown stage '{stage[:100]}'{nearest(stage, STAGES)} (stages: {', '.join(STAGES)})")
    tree: dict[str, dict[str, Any]] = {name: {} for name in Config.model_fields}
    preset = _preset(given)
    for section, values in read_preset(preset).items() if preset != AUTO else ():
        if section in model_names():
            tree["models"].setdefault(section, {}).update(values)
        else:
            tree[section].update(values)
    for key, value in given.items():
        _assign(tree, stage, key, value, "command line")
    tree["common"]["preset"] = preset
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_message(error)) from error
    except UnicodeEncodeError as error:
        keys = [key for key, value in given.items() if any("\ud800" <= char <= "\udfff" for char in str(value))]
        raise UserError(f"{', '.join(keys) or f'preset {preset}'}: the value holds bytes that are no UTF-8") from error
    return config.replace({"prepare.split": config.prepare.split and config.prepare.split.expanduser()})


def _parts(key: str, value: Any) -> Any:
    try:
        return split_commas(value)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def resolve_model(config: Config, name: str, **fixed: Any) -> dict[str, Any]:
    """The full configuration of a model as plain values: its defaults, the preset's and the given keys, then `fixed`.

    Imports the model. Raises UserError for an unknown key or a value out of range.
    """
    registry = generators if name in generators.names() else segmenters
    model_config = registry.load(name).Config
    given = dict(config.models.get(name, {}))
    for key in given.keys() - model_config.model_fields.keys():
        raise UserError(f"unknown key '{name}.{key}'{nearest(key, model_config.model_fields)}")
    for key, value in given.items():
        annotation = model_config.model_fields[key].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):  # Python counts with them
            raise UserError(f"{name}.{key}: needs a value (got {value})")
        if get_origin(annotation) is tuple:
            given[key] = _parts(f"{name}.{key}", value)
    try:
        resolved = model_config(**{**given, **fixed}).model_dump(mode="json")
    except ValidationError as error:
        raise UserError("\n".join(f"{name}.{line}" for line in _message(error).splitlines())) from error
    for key in given:
        values = resolved[key] if isinstance(resolved[key], list) else [resolved[key]]
        if any(isinstance(value, int | float) and not abs(value) <= LARGEST for value in values):  # nan, too
            raise UserError(f"{name}.{key}: no number up to {LARGEST:,} (got {_shown(given[key])})")
    return resolved
