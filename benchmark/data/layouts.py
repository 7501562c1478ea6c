"""The names that a subject's files have in the layouts of BraTS, the Medical Segmentation Decathlon and nnU-Net.

Names only: `cohorts.find` checks what the files are.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.data.dataset_json import read_dataset_json
from benchmark.data.labels import MSD_CLASSES
from benchmark.data.tree import Tree, stem

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
ANNOTATION = "annotation"
DATASET_JSON = "dataset.json"
IMAGE = "image"  # the one 4-D file of a layout that has no file per modality
ROLES = (*MODALITIES, ANNOTATION)

BRATS_ENDINGS = {  # in the order of ROLES
    "brats2020": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
    "brats2021": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
    "brats2023": ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
}
LAYOUTS = (*BRATS_ENDINGS, "msd", "nnunet", "named")
MSD_CHANNELS = (1, 2, 3, 0)  # stored as FLAIR, T1, T1ce, T2


@dataclass
class Case:
    """The files that a layout's names give to one subject."""

    name: str
    folder: Path  # what the names below are relative to
    expected: Mapping[str, str]  # role → what its file would be called; every role that the subject must have
    files: Mapping[str, Sequence[Path]]  # role → the files that have such a name
    classes: Mapping[int, int] = field(default_factory=dict)  # as in cohorts.Subject
    channels: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        return all(self.files.get(role) for role in self.expected)


def told_apart(cases: Sequence[Case], root: Path) -> list[Case]:
    """The cases, those of one name in several folders called by their path."""
    count = Counter(case.name for case in cases)
    for case in cases:
        if count[case.name] > 1:
            case.name = str(case.folder.relative_to(root) / case.name)
    return list(cases)


def brats(tree: Tree, layout: str) -> list[Case]:
    """A folder per subject, which gives the subject its name, or several subjects in a folder, told by their prefix."""
    endings = dict(zip(ROLES, BRATS_ENDINGS[layout], strict=True))
    cases = []
    for folder, paths in tree.folders.items():
        by_prefix: dict[str, dict[str, list[Path]]] = {}  # prefix → role → files
        oddity = []
        for path in paths:
            name = stem(path)
            # "x_t1ce" does not end in "_t1".
            if role := next((role for role, ending in endings.items() if name.lower().endswith(ending)), None):
                by_prefix.setdefault(name[: -len(endings[role])], {}).setdefault(role, []).append(path)
            elif name.lower().endswith("_segm"):  # BraTS20_Training_355: W39_1998.09.19_Segm.nii
                oddity.append(path)
        alone = len(by_prefix) == 1
        for prefix, files in by_prefix.items():
            if alone and oddity:
                files.setdefault(ANNOTATION, oddity)
            name = prefix if prefix and not alone else (folder.resolve() if folder == tree.folder else folder).name
            expected = {role: f"{prefix}{ending}.nii.gz" for role, ending in endings.items()}
            cases.append(Case(name, folder, expected, files))
    return told_apart(cases, tree.folder)


# --- imagesTr and labelsTr -------------------------------------------------------------------------------------------


def image_roots(tree: Tree) -> dict[Path, str]:
    """Folders that hold an imagesTr → "nnunet" where its names end in a channel's number, else "msd"."""
    return {
        folder.parent: "nnunet" if any(re.fullmatch(r".+_\d{4}", stem(path)) for path in paths) else "msd"
        for folder, paths in sorted(tree.folders.items())
        if folder.name == "imagesTr"
    }


def msd(tree: Tree, root: Path) -> list[Case]:
    """One 4-D file of images per subject; dataset.json, where there is one, says what its channels and labels are."""
    channels, classes = MSD_CHANNELS, MSD_CLASSES
    if os.path.lexists(root / DATASET_JSON):
        channels, classes = read_dataset_json(root / DATASET_JSON, MODALITIES)
    images, annotations = _by_stem(tree, root / "imagesTr"), _by_stem(tree, root / "labelsTr")
    cases = []
    for name in images.keys() | annotations.keys():
        expected = {IMAGE: f"imagesTr/{name}.nii.gz", ANNOTATION: f"labelsTr/{name}.nii.gz"}
        files = {IMAGE: images.get(name, []), ANNOTATION: annotations.get(name, [])}
        cases.append(Case(name, root, expected, files, classes, channels))
    return cases


def nnunet(tree: Tree, root: Path) -> list[Case]:
    """A file per subject and channel; dataset.json says which channel is which modality."""
    channels, classes = read_dataset_json(root / DATASET_JSON, MODALITIES)
    by_case: dict[str, dict[str, list[Path]]] = defaultdict(dict)
    for name, paths in _by_stem(tree, root / "imagesTr").items():
        match = re.fullmatch(r"(.+)_(\d{4})", name)
        if match is None:
            by_case[name] = {}  # set aside: without its channels
        elif int(match[2]) in channels:
            by_case[match[1]][MODALITIES[channels.index(int(match[2]))]] = paths
    for name, paths in _by_stem(tree, root / "labelsTr").items():
        by_case[name][ANNOTATION] = paths
    cases = []
    for name, files in by_case.items():
        expected = {
            modality: f"imagesTr/{name}_{channel:04d}.nii.gz"
            for modality, channel in zip(MODALITIES, channels, strict=True)
        }
        expected[ANNOTATION] = f"labelsTr/{name}.nii.gz"
        cases.append(Case(name, root, expected, files, classes))
    return cases


def _by_stem(tree: Tree, folder: Path) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for path in tree.folders.get(folder, []):
        found[stem(path)].append(path)
    return found
