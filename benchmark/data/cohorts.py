"""Cohorts of NIfTI subjects: finding them in the layouts that people have.

What is wrong with a subject becomes a `Rejection` that a person can act on.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.data.labels import BRATS_CLASSES, MSD_CLASSES, label_classes
from benchmark.errors import UserError

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")

# File name endings in the order of MODALITIES, then the annotation's.
BRATS_ENDINGS = {
    "brats2020": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
    "brats2021": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
    "brats2023": ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
}
MSD_CHANNELS = (1, 2, 3, 0)  # stored as FLAIR, T1, T1ce, T2
LAYOUTS = (*BRATS_ENDINGS, "msd", "nnunet")


class RejectedSubject(Exception):
    """Why a subject cannot be used: the `file` and the `reason`, in words for people."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(file, reason)  # exactly the arguments, so that it can cross processes
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class Rejection:
    """One row of rejected.csv: a subject that was set aside, the file at fault, and why."""

    subject: str
    file: str
    reason: str


@dataclass(frozen=True)
class Subject:
    """Where a subject's images and annotation lie, and how to understand them."""

    name: str
    images: tuple[Path, ...]  # T1, T1ce, T2, FLAIR; or one 4-D file with the channels below
    annotation: Path
    classes: dict[int, int]  # value in the annotation → class 0–3
    channels: tuple[int, ...] = ()  # where T1, T1ce, T2, FLAIR stand in a 4-D file
    patient: str = ""  # whose scan this is, where a person has several; else empty

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, self.annotation)


@dataclass(frozen=True)
class Cohort:
    """A folder of subjects, in the order of their names, and what could not be one."""

    name: str
    layout: str
    folder: Path
    subjects: list[Subject]
    rejections: list[Rejection]


# --- finding ---------------------------------------------------------------------------------------------------------


def find(folder: Path | str, layout: str = "auto") -> Cohort:
    """The subjects in a folder; incomplete ones are listed as rejections.

    `layout` is "auto" or one of LAYOUTS. Raises UserError where the folder is none, no layout is recognised, several
    are, or an nnU-Net dataset.json cannot be understood.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder that holds the cohort's NIfTI files")
    if layout not in ("auto", *LAYOUTS):
        raise UserError(f"unknown layout '{layout}'; known: auto, {', '.join(LAYOUTS)}")
    files = sorted(nifti_files(folder))
    if layout == "auto":
        layout = _detect(folder, files)

    if layout in BRATS_ENDINGS:
        found = list(_find_brats(folder, files, BRATS_ENDINGS[layout]))
    else:
        root = _image_root(folder, files)
        found = list(_find_msd(folder, root) if layout == "msd" else _find_nnunet(folder, root))
    subjects = sorted((item for item in found if isinstance(item, Subject)), key=lambda subject: subject.name)
    rejections = sorted((item for item in found if isinstance(item, Rejection)), key=lambda item: item.subject)
    if not found:
        raise UserError(_nothing_found(folder, files, f"no subject in the layout {layout}"))
    return Cohort(_printable(folder.resolve().name), layout, folder, subjects, rejections)


def nifti_files(folder: Path) -> Iterator[Path]:
    """All .nii and .nii.gz below a folder, links followed once; macOS leaves `._` companions, which are no images."""
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in names:
            if not name.startswith("._") and name.lower().endswith((".nii", ".nii.gz")):
                yield Path(parent, name)


def _detect(folder: Path, files: list[Path]) -> str:
    stems = [_stem(path).lower() for path in files if path.parent.name == "imagesTr"]
    if stems:
        return "nnunet" if any(re.fullmatch(r".+_\d{4}", stem) for stem in stems) else "msd"
    present = {
        layout: [path for path in files if _stem(path).lower().endswith(endings[:-1])]
        for layout, endings in BRATS_ENDINGS.items()
    }
    if present["brats2020"] and present["brats2023"]:
        raise UserError(
            f"{folder} holds two layouts: brats2020 (e.g. {present['brats2020'][0].name}) and brats2023 "
            f"(e.g. {present['brats2023'][0].name}). Give one cohort's folder, or name the layout"
        )
    if present["brats2023"]:
        return "brats2023"
    if present["brats2020"]:
        return "brats2021" if "brats2021" in present["brats2020"][0].name.lower() else "brats2020"
    raise UserError(_nothing_found(folder, files, "no known layout"))


def _nothing_found(folder: Path, files: list[Path], what: str) -> str:
    seen = f"{len(files)} NIfTI files, e.g. {shown(files[0], folder)}" if files else "no .nii or .nii.gz file at all"
    return (
        f"{folder}: {what} was recognised; there is {seen}. Looked for: *_t1 *_t1ce *_t2 *_flair *_seg (BraTS 2020, "
        "2021), *-t1n *-t1c *-t2w *-t2f *-seg (BraTS 2023 on), imagesTr/*.nii.gz with labelsTr (Medical Segmentation "
        "Decathlon Task01), imagesTr/*_0000.nii.gz … with labelsTr and dataset.json (nnU-Net)"
    )


def _find_brats(folder: Path, files: list[Path], endings: tuple[str, ...]) -> Iterator[Subject | Rejection]:
    by_folder: dict[Path, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    oddities: dict[Path, Path] = {}
    for path in files:
        stem = _stem(path)
        # The longest ending that fits; "x_t1ce" does not end in "_t1".
        if ending := next((ending for ending in endings if stem.lower().endswith(ending)), None):
            by_folder[path.parent][stem[: -len(ending)]].setdefault(ending, path)
        elif stem.lower().endswith("_segm"):  # BraTS20_Training_355: W39_1998.09.19_Segm.nii
            oddities[path.parent] = path

    groups = []
    for parent, prefixes in by_folder.items():
        for prefix, group in prefixes.items():
            alone = len(prefixes) == 1  # a folder per subject, as BraTS comes; else the files' common prefix
            if alone and parent in oddities:
                group.setdefault(endings[-1], oddities[parent])
            groups.append((parent.resolve().name if alone else prefix, parent, prefix, group))
    names = [name for name, *_ in groups]
    for name, parent, prefix, group in groups:
        name = _printable(name if names.count(name) == 1 else f"{shown(parent, folder)}/{prefix}")
        missing = [i for i, ending in enumerate(endings) if ending not in group]
        if missing:
            what = ["no annotation" if i == 4 else f"{MODALITIES[i]} is missing" for i in missing]
            file = parent / f"{prefix}{endings[missing[0]]}.nii.gz"
            yield Rejection(name, shown(file, folder), ", ".join(what))
        else:
            *images, annotation = (group[ending] for ending in endings)
            yield Subject(name, tuple(images), annotation, BRATS_CLASSES)


def _image_root(folder: Path, files: list[Path]) -> Path:
    roots = sorted({path.parent.parent for path in files if path.parent.name == "imagesTr"})
    if not roots:
        raise UserError(_nothing_found(folder, files, "no folder imagesTr"))
    if len(roots) > 1:
        raise UserError(f"{folder} holds several data sets: give one of {', '.join(map(str, roots))}")
    return roots[0]


def _find_msd(folder: Path, root: Path) -> Iterator[Subject | Rejection]:
    images, annotations = _by_stem(root / "imagesTr"), _by_stem(root / "labelsTr")
    for stem in sorted(images.keys() | annotations.keys()):
        if stem not in annotations:
            yield Rejection(_printable(stem), f"labelsTr/{_printable(stem)}.nii.gz", "no annotation")
        elif stem not in images:
            yield Rejection(_printable(stem), f"imagesTr/{_printable(stem)}.nii.gz", "the image file is missing")
        else:
            yield Subject(_printable(stem), (images[stem],), annotations[stem], MSD_CLASSES, MSD_CHANNELS)


def _find_nnunet(folder: Path, root: Path) -> Iterator[Subject | Rejection]:
    channels, classes = _read_dataset_json(root / "dataset.json")
    images: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, path in _by_stem(root / "imagesTr").items():
        if match := re.fullmatch(r"(.+)_(\d{4})", stem):
            images[match[1]][int(match[2])] = path
    annotations = _by_stem(root / "labelsTr")
    for case in sorted(images.keys() | annotations.keys()):
        missing = [m for m, channel in enumerate(channels) if channel not in images[case]]
        if missing:
            file = f"imagesTr/{_printable(case)}_{channels[missing[0]]:04d}.nii.gz"
            yield Rejection(_printable(case), file, ", ".join(f"{MODALITIES[m]} is missing" for m in missing))
        elif case not in annotations:
            yield Rejection(_printable(case), f"labelsTr/{_printable(case)}.nii.gz", "no annotation")
        else:
            files = tuple(images[case][channel] for channel in channels)
            yield Subject(_printable(case), files, annotations[case], classes)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {_stem(path): path for path in sorted(nifti_files(folder)) if path.parent == folder}


def _read_dataset_json(path: Path) -> tuple[tuple[int, ...], dict[int, int]]:
    """Channel numbers of T1, T1ce, T2, FLAIR, and value → class, from an nnU-Net dataset.json of version 1 or 2."""
    if not path.is_file():
        raise UserError(f"{path} is missing: nnU-Net's layout needs it to say what the channels and labels are")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        named = content.get("channel_names", content.get("modality"))
        channel_of = {_modality(name): int(number) for number, name in named.items()}
        labels = content["labels"]
        if all(key.isdigit() for key in labels):  # version 1: {"1": "edema"}
            labels = {name: int(value) for value, name in labels.items()}
        labels = {name: value if isinstance(value, list) else [int(value)] for name, value in labels.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} cannot be understood ({type(error).__name__}: {error}): nnU-Net's channel_names (or modality) and "
            "labels are needed"
        ) from error

    unknown = [str(name) for name in named.values() if _modality(name) is None]
    missing = [modality for modality in MODALITIES if modality not in channel_of]
    if missing:
        raise UserError(
            f"{path}: no channel is named as {', '.join(missing)}"
            + (f"; cannot understand {', '.join(map(repr, unknown))}" if unknown else "")
            + ". Known names are such as T1, T1ce (T1c, T1Gd), T2, FLAIR"
        )
    return tuple(channel_of[modality] for modality in MODALITIES), label_classes(path, labels)


def _modality(name: str) -> str | None:
    name = re.sub(r"[^a-z0-9]", "", str(name).lower())
    known = {
        "FLAIR": r"(t2)?w?flair|t2f",
        "T2": r"t2(w|weighted)?",
        "T1ce": r"(ce|gd)t1w?|t1w?(ce|c|gd|kgd|gad|km|post|postcontrast|contrast|contrastenhanced|gadolinium)",
        "T1": r"t1(w|n|weighted|native|pre)?",
    }
    return next((modality for modality, pattern in known.items() if re.fullmatch(pattern, name)), None)


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def shown(path: Path, folder: Path) -> str:
    """A path for people, relative to the cohort's folder."""
    return _printable(str(path.relative_to(folder)))


def _printable(name: str) -> str:
    """A file name that is not UTF-8 reaches Python as lone surrogates, which no table or page can hold."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
