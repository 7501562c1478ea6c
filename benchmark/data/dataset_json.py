"""dataset.json, as nnU-Net and the Medical Segmentation Decathlon have it: which channel and which label is what."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmark.data.labels import ED, ET, NCR
from benchmark.errors import UserError


def read_dataset_json(path: Path, modalities: Sequence[str]) -> tuple[tuple[int, ...], dict[int, int]]:
    """Channel numbers of `modalities`, T1, T1ce, T2, FLAIR, and value → class, from a file of version 1 or 2.

    Raises UserError where it is missing, cannot be understood, or contradicts itself.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: nnU-Net's layout needs it to say what the channels and labels are")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
        named = _same(content, "channel_names", "modality")
        channels = {_whole(number): str(name) for number, name in named.items()}
        labels = content["labels"]
        if all(key.isdigit() for key in labels):  # version 1: {"1": "edema"}
            labels = _turned(labels)
        labels = {
            name: [_whole(each) for each in value] if isinstance(value, list) else [_whole(value)]
            for name, value in labels.items()
        }
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be understood ({type(error).__name__}: {error}): nnU-Net's channel_names (or modality) and "
            "labels are needed"
        ) from error
    return _channels(path, channels, modalities), label_classes(path, labels)


def label_classes(path: Path, labels: dict[str, list[int]]) -> dict[int, int]:
    """Value → class from named labels; where names stand for several values they are BraTS's nested regions."""
    nested = any(len(values) > 1 for values in labels.values())
    if nested:
        known = {"WT": r"whole|\bwt\b", "TC": r"core|\btc\b", "ET": r"enhanc|\bet\b"}
    else:
        known = {"NCR": r"necro|non.?enhanc|\bncr|\bnetc?\b", "ED": r"o?edema|\bed\b|snfh", "ET": r"enhanc|\bet\b"}
    known = {"background": r"background", "ignore": r"ignore", **known}

    meaning = {}
    for name, values in labels.items():
        plain = name.lower().replace("_", " ")
        part = next((part for part, pattern in known.items() if re.search(pattern, plain)), None)
        if part is None or part in meaning:
            raise UserError(
                f"{path}: cannot tell what the label {name!r} = {values} is; known are necrosis (NCR), edema (ED) and "
                "enhancing tumor (ET), or the regions whole tumor, tumor core and enhancing tumor"
            )
        meaning[part] = values
    meaning.pop("ignore", None)  # nnU-Net's "not annotated": such a value is refused when it is met
    background = dict.fromkeys(meaning.pop("background", [0]), 0)
    if missing := [part for part in known if part not in ("background", "ignore") and part not in meaning]:
        raise UserError(f"{path}: no label is named as {', '.join(missing)}; found {', '.join(map(repr, labels))}")
    if nested:
        if not set(meaning["ET"]) < set(meaning["TC"]) < set(meaning["WT"]):
            raise UserError(
                f"{path}: the regions are not nested: whole tumor {meaning['WT']} must hold more than tumor core "
                f"{meaning['TC']}, and that more than enhancing tumor {meaning['ET']}"
            )
        classes = (
            dict.fromkeys(meaning["WT"], ED) | dict.fromkeys(meaning["TC"], NCR) | dict.fromkeys(meaning["ET"], ET)
        )
    else:
        classes = {value: {"NCR": NCR, "ED": ED, "ET": ET}[part] for part, (value,) in meaning.items()}
        if len(classes) < len(meaning):
            raise UserError(f"{path}: several labels have the same value: {labels}")
    if both := background.keys() & classes.keys():
        raise UserError(f"{path}: the value {min(both)} is background and a label: {labels}")
    return background | classes


def _channels(path: Path, channels: dict[int, str], modalities: Sequence[str]) -> tuple[int, ...]:
    """Where each of `modalities` stands."""
    found = {wanted: [n for n, name in channels.items() if modality(name) == wanted] for wanted in modalities}
    if sorted(channels) != list(range(len(channels))):
        raise UserError(f"{path}: channels are numbered {', '.join(map(str, channels))}; expected 0, 1, 2, …")
    for wanted, numbers in found.items():
        if len(numbers) > 1:
            raise UserError(f"{path}: channels {' and '.join(map(str, numbers))} are both named as {wanted}")
    if missing := [wanted for wanted, numbers in found.items() if not numbers]:
        unknown = [name for name in channels.values() if modality(name) is None]
        raise UserError(
            f"{path}: no channel is named as {', '.join(missing)}"
            + (f"; cannot understand {', '.join(map(repr, unknown))}" if unknown else "")
            + ". Known names are such as T1, T1ce (T1c, T1Gd), T2, FLAIR"
        )
    return tuple(number for (number,) in found.values())


def modality(name: str) -> str | None:
    """Which modality a name such as 'T1-weighted', 't1Gd' or 'T2_FLAIR' means."""
    name = re.sub(r"[^a-z0-9]", "", name.lower())
    known = {
        "FLAIR": r"(t2)?w?flair|t2f",
        "T2": r"t2(w|weighted)?",
        "T1ce": r"(c|ce|gd|cegadolinium|cegd)t1w?"
        r"|t1w?(ce|c|gd|kgd|gad|km|post|postcontrast|contrast|contrastenhanced|gadolinium)",
        "T1": r"t1(w|n|weighted|native|pre|precontrast)?",
    }
    return next((found for found, pattern in known.items() if re.fullmatch(pattern, name)), None)


def _once(pairs: list[tuple]) -> dict:
    """An object of JSON, whose keys must not come twice: JSON takes the last one without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def _same(content: dict, *keys: str) -> dict:
    """The value of whichever of the keys is there; of both, if they agree."""
    found = [content[key] for key in keys if content.get(key) is not None]
    if not found:
        raise KeyError(keys[0])
    if any(other != found[0] for other in found):
        raise ValueError(f"{' and '.join(keys)} contradict each other")
    return found[0]


def _turned(labels: dict[str, str]) -> dict[str, int]:
    """Version 1's {"1": "edema"} → {"edema": 1}."""
    turned = {str(name): int(value) for value, name in labels.items()}
    if len(turned) < len(labels):
        raise ValueError(f"two labels have the same name: {labels}")
    return turned


def _whole(value: object) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)
