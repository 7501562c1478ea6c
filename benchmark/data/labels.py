"""What the values of an annotation mean: conventions, and values to classes."""

import re
from pathlib import Path

from benchmark.errors import UserError

NCR, ED, ET = 1, 2, 3

BRATS_CLASSES = {0: 0, 1: NCR, 2: ED, 3: ET, 4: ET}  # ET is 4 until BraTS 2021 and 3 from 2023 on
MSD_CLASSES = {0: 0, 1: ED, 2: NCR, 3: ET}


def label_classes(path: Path, labels: dict[str, list[int]]) -> dict[int, int]:
    """Value → class from named labels; where names stand for several values they are BraTS's nested regions."""
    if any(len(values) > 1 for values in labels.values()):
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
    if "WT" not in meaning:
        return background | {value: ("NCR", "ED", "ET").index(part) + 1 for part, (value,) in meaning.items()}
    classes = dict.fromkeys(meaning["WT"], ED) | dict.fromkeys(meaning["TC"], NCR) | dict.fromkeys(meaning["ET"], ET)
    return background | classes
