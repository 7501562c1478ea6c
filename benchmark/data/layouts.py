"""The names that a subject's files have in the layouts of BraTS, the Medical Segmentation Decathlon and nnU-Net.

Names only: `cohorts.find` looks at what the files are.
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
    folder: Path  # where its first file lies
    expected: Mapping[str, Path]  # role → what its file would be called; every role that the subject must have
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
    endings = BRATS_ENDINGS[layout]
    by_folder: dict[Path, dict[str, dict[str, list[Path]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    oddities: dict[Path, Path] = {}
    for path in tree.files:
        name = stem(path)
        # "x_t1ce" does not end in "_t1".
        for role, ending in zip(ROLES, endings, strict=True):
            if name.lower().endswith(ending):
                files = by_folder[path.parent].setdefault(name[: -len(ending)], {})
                files.setdefault(role, []).append(path)
                break
        else:
            if name.lower().endswith("_segm"):  # BraTS20_Training_355: W39_1998.09.19_Segm.nii
                oddities[path.parent] = path

    cases = []
    for folder, prefixes in by_folder.items():
        for prefix, files in prefixes.items():
            alone = len(prefixes) == 1
            if alone and folder in oddities:
                files.setdefault(ANNOTATION, [oddities[folder]])
            name = (folder.resolve() if folder == tree.folder else folder).name if alone else prefix
            expected = {role: folder / f"{prefix}{ending}.nii.gz" for role, ending in zip(ROLES, endings, strict=True)}
            cases.append(Case(name, folder, expected, files))
    return told_apart(cases, tree.folder)


# --- imagesTr and labelsTr -------------------------------------------------------------------------------------------


def image_roots(tree: Tree) -> dict[Path, str]:
    """Folders that hold an imagesTr → "nnunet" where its names end in a channel's number, else "msd"."""
    stems = defaultdict(list)
    for path in tree.files:
        if path.parent.name == "imagesTr":
            stems[path.parent.parent].append(stem(path))
    return {
        root: "nnunet" if any(re.fullmatch(r".+_\d{4}", name) for name in names) else "msd"
        for root, names in sorted(stems.items())
    }


def msd(tree: Tree, root: Path) -> list[Case]:
    """One 4-D file of images per subject; dataset.json, where there is one, says what its channels and labels are."""
    channels, classes = MSD_CHANNELS, MSD_CLASSES
    if os.path.lexists(root / DATASET_JSON):
        channels, classes = read_dataset_json(root / DATASET_JSON, MODALITIES)
    images, annotations = _by_stem(tree, root / "imagesTr"), _by_stem(tree, root / "labelsTr")
    cases = []
    for name in images.keys() | annotations.keys():
        expected = {IMAGE: root / "imagesTr" / f"{name}.nii.gz", ANNOTATION: root / "labelsTr" / f"{name}.nii.gz"}
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
            modality: root / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
            for modality, channel in zip(MODALITIES, channels, strict=True)
        }
        expected[ANNOTATION] = root / "labelsTr" / f"{name}.nii.gz"
        cases.append(Case(name, root, expected, files, classes))
    return cases


def _by_stem(tree: Tree, folder: Path) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for path in tree.files:
        if path.parent == folder:
            found[stem(path)].append(path)
    return found
