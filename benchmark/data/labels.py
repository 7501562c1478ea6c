"""What the values of an annotation mean: decided once for a cohort, never subject by subject."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmark.errors import UserError

NCR, ED, ET = 1, 2, 3
CLASSES = {"background": 0, "NCR": NCR, "ED": ED, "ET": ET}

BRATS_CLASSES = {0: 0, 1: NCR, 2: ED, 3: ET, 4: ET}  # ET is 4 until BraTS 2021 and 3 from 2023 on: never both
MSD_CLASSES = {0: 0, 1: ED, 2: NCR, 3: ET}

CONVENTIONS = {
    "brats2020": {0: 0, 1: NCR, 2: ED, 4: ET},  # 2017 to 2021
    "brats2023": {0: 0, 1: NCR, 2: ED, 3: ET},  # 2023; also Africa, meningioma, metastases
    "brats2024": {0: 0, 1: NCR, 2: ED, 3: ET, 4: 0},  # after treatment: 4 is the resection cavity
    "brats2015": {0: 0, 1: NCR, 2: ED, 3: NCR, 4: ET},  # before 2017: 3 is non-enhancing tumour
    "brats_ped": {0: 0, 1: ET, 2: NCR, 3: NCR, 4: ED},  # BraTS-PED 2024: 2 is non-enhancing tumour, 3 cyst
    "msd": MSD_CLASSES,
}
MOST_VALUES = 20  # of annotations
DATASET_JSON = "dataset.json"
NEW_NAMES = re.compile(r"brats.?(gli|met|men|ssa|ped|goat)", re.IGNORECASE)
PAEDIATRIC = re.compile(r"brats.?peds?(?![a-z])", re.IGNORECASE)

Values = Mapping[str, Mapping[int, int]]  # subject → value in its annotation → voxels that have it


@dataclass(frozen=True)
class Convention:
    """What a cohort's annotations mean."""

    name: str
    classes: dict[int, int]  # value → class 0–3
    note: str = ""  # what was decided, where a reader would want to know

    def facts(self) -> dict:
        """For JSON: values and classes by name."""
        names = {number: name for name, number in CLASSES.items()}
        return {"name": self.name, "classes": {str(v): names[c] for v, c in self.classes.items()}, "note": self.note}


def parse_mapping(text: str) -> dict[int, int]:
    """'1:NCR,2:ED,3:ET,4:background' → value → class 0–3; 0 is background. Raises ValueError."""
    known = {name.lower(): number for name, number in CLASSES.items()}
    classes = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*:\s*(\w+)\s*", part, re.ASCII)
        if not match or match[2].lower() not in known or int(match[1]) > 65535:
            raise ValueError(f"'{part.strip()}' is no value and class, such as 2:ED; classes are {', '.join(CLASSES)}")
        if int(match[1]) in classes:
            raise ValueError(f"the value {int(match[1])} is named twice")
        classes[int(match[1])] = known[match[2].lower()]
    if classes.setdefault(0, 0) != 0:
        raise ValueError("0 is background in every annotation")
    if not any(classes.values()):
        raise ValueError("no value is NCR, ED or ET")
    return dict(sorted(classes.items()))


def check_name(wanted: str) -> str:
    """The key `labels` as it was given; raises ValueError where it is neither a convention nor a mapping."""
    if ":" in wanted:
        parse_mapping(wanted)
    elif wanted not in (known := ("auto", *CONVENTIONS, DATASET_JSON)):
        raise ValueError(f"'{wanted}' is not one of: {', '.join(known)}; or a mapping such as 1:NCR,2:ED,4:ET")
    return wanted


def decide(layout: str, values: Values, wanted: str = "auto", given: Mapping[int, int] | None = None) -> Convention:
    """The convention of a cohort's annotations, from its subjects' values.

    `wanted` is the key `labels`; `given` is what the layout says of the classes (dataset.json; the Decathlon's order).
    Raises UserError with the question that decides, where the values do not; and where nothing is annotated.
    """
    if not any(voxels for counts in values.values() for value, voxels in counts.items() if value):
        raise UserError(
            f"no voxel of the {len(values)} annotations is anything but 0: no tumour to learn from. Are these the "
            "annotations?"
        )
    convention = _chosen(layout, values, wanted, given)
    _refuse_unknown(values, convention)
    ignored = [value for value, number in convention.classes.items() if value and not number]
    counts = [sum(counts.get(value, 0) for value in ignored) for counts in values.values()]
    if not any(counts):
        return convention
    what = "the resection cavity, 4," if convention.name == "brats2024" else " and ".join(map(str, ignored))
    note = f"{what} counts as background: {sum(counts)} voxels in {sum(map(bool, counts))} subject(s)"
    return replace(convention, note=note)


def absent_classes(volumes: list[Mapping[str, float]]) -> list[str]:
    """Which of NCR, ED, ET has no volume in any subject."""
    return [name for name in ("NCR", "ED", "ET") if not any(volume[name] for volume in volumes)]


def absence(absent: list[str], convention: Convention) -> str:
    """What to say of classes that no subject has."""
    named = ", ".join(f"{value} {name}" for value, name in convention.facts()["classes"].items() if value != "0")
    whole = " Are these masks of the whole tumour?" if len(absent) == 2 else ""
    return (
        f"no subject has {' or '.join(absent)}.{whole} The labels are read as {convention.name} ({named}); if they "
        "mean something else, say so with labels=…. Scores of a class that is nowhere say nothing"
    )


def _chosen(layout: str, values: Values, wanted: str, given: Mapping[int, int] | None) -> Convention:
    if ":" in wanted:
        return Convention("mapping", parse_mapping(wanted))
    if wanted in CONVENTIONS:
        return Convention(wanted, CONVENTIONS[wanted])
    if wanted == DATASET_JSON and not given:
        raise UserError(f"labels=dataset.json: the layout {layout} has no dataset.json")
    if given:
        return Convention("msd" if given == MSD_CLASSES else DATASET_JSON, dict(given))
    if children := [subject for subject in values if PAEDIATRIC.search(subject)]:
        raise UserError(
            f"{_subjects(children)} of {len(values)} are named as BraTS-PED, whose labels changed: in 2024 1 is "
            "ET, 2 non-enhancing tumour, 3 cyst and 4 oedema (labels=brats_ped); in 2023 1 is NCR, 2 ED and 3 ET "
            "(labels=brats2023). Say which"
        )
    return _by_values(layout, values)


def _by_values(layout: str, values: Values) -> Convention:
    """Where names say nothing more: by where the values 3 and 4 occur."""
    _refuse_unknown(values, Convention("BraTS", dict.fromkeys(range(5), 0)))
    three, four = ([subject for subject, counts in values.items() if counts.get(value)] for value in (3, 4))
    if layout == "brats2023" or any(NEW_NAMES.search(subject) for subject in values):
        if four:
            raise UserError(
                f"the label 4 is in {_subjects(four)} of {len(values)}, named as from 2023 on, "
                "where ET is 3. Is 4 the resection cavity, as in BraTS 2024? Then labels=brats2024 counts it as "
                "background. Is it ET, as until 2021? Then labels=brats2020. Else name each value: "
                "labels=1:NCR,2:ED,3:ET,4:…"
            )
        return Convention("brats2023", CONVENTIONS["brats2023"])
    if three and four:
        raise UserError(
            f"the label 3 is in {_subjects(three)} and 4 in {_subjects(four)} of {len(values)}: only one of them can "
            "be ET. Is 3 non-enhancing tumour, as in BraTS before 2017? Then labels=brats2015. Is 4 the resection "
            "cavity, as in BraTS 2024? Then labels=brats2024. Are these subjects of several years in one folder? Then "
            "prepare each year by itself. Else name each value: labels=1:NCR,2:ED,3:…,4:…"
        )
    if three:
        note = f"no annotation has a 4 and {len(three)} of {len(values)} have a 3, which is taken for ET, as in BraTS "
        return Convention("brats2023", CONVENTIONS["brats2023"], note + "2023 (the Decathlon's order is labels=msd)")
    return Convention("brats2020", CONVENTIONS["brats2020"])


def _refuse_unknown(values: Values, convention: Convention) -> None:
    """Raises UserError where most subjects have an unknown value; fewer are set aside when they are read."""
    unknown = {name: sorted(counts.keys() - convention.classes.keys()) for name, counts in values.items()}
    unknown = {name: found for name, found in unknown.items() if found}
    if 2 * len(unknown) <= len(values):
        return
    present = sorted({value for counts in values.values() for value in counts if value})
    example = ""
    if 0 < len(present) <= 6 and present[0] > 0:
        parts = (*("NCR", "ED", "ET")[-len(present) :], *["background"] * (len(present) - 3))
        example = f", for example {','.join(f'{v}:{part}' for v, part in zip(present, parts, strict=True))}"
    elif len(present) > MOST_VALUES:
        example = "; but so many values are an image's: are these files the annotations?"
    raise UserError(
        f"{len(unknown)} of {len(values)} subjects have annotations with values that {convention.name} does not know "
        f"({_some(list(unknown))}: {_some(next(iter(unknown.values())))}). What do they mean? Name each with "
        f"labels=…{example}"
    )


def _subjects(names: list[str]) -> str:
    return f"{len(names)} subject{'s' if len(names) != 1 else ''} ({_some(names)})"


def _some(items: list, most: int = 3) -> str:
    return ", ".join(map(str, items[:most])) + (", …" if len(items) > most else "")
