"""Cohorts of NIfTI subjects: finding them in the layouts that people have (docs/cohorts.md).

What is wrong with a subject becomes a `Rejection` that a person can act on.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.data import layouts, named, patterns
from benchmark.data.layouts import ANNOTATION, IMAGE, LAYOUTS, MODALITIES, Case
from benchmark.data.tree import Tree, above, fault, printable, shown, walk
from benchmark.errors import UserError

NAMED = "named"
SHOWN = 12  # endings in a message
__all__ = ["LAYOUTS", "MODALITIES", "Cohort", "RejectedSubject", "Rejection", "Subject", "find", "nifti_files", "shown"]


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
    classes: dict[int, int]  # value in the annotation → class 0–3; {}: the files' names do not tell
    channels: tuple[int, ...] = ()  # where T1, T1ce, T2, FLAIR stand in a 4-D file
    patient: str = ""  # whose scan this is, where a person has several; else empty

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, self.annotation)


@dataclass(frozen=True)
class Cohort:
    """The subjects of a folder, in the order of their names, and those that were set aside."""

    name: str
    layout: str
    folder: Path
    subjects: list[Subject]
    rejections: list[Rejection]
    sources: tuple[Path, ...] = ()  # files beside the subjects' that say how to read them
    notes: tuple[str, ...] = ()  # what was chosen in finding, for people

    @property
    def files(self) -> list[Path]:
        """Exactly what is read of this cohort."""
        return [*self.sources, *(path for subject in self.subjects for path in subject.files)]


# --- finding ---------------------------------------------------------------------------------------------------------


def find(folder: Path | str, layout: str = "auto") -> Cohort:
    """The subjects in a folder; incomplete ones, and those whose files cannot be read, are listed as rejections.

    `layout` is "auto", one of LAYOUTS, or a YAML file of patterns. Raises UserError where the folder is none or too
    large, no layout is recognised, several are, or a dataset.json or a layout's file cannot be understood.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for a name that is too long
        raise UserError(f"{folder} is not a folder: give the folder that holds the cohort's NIfTI files")
    if layout not in ("auto", *LAYOUTS) and not is_layout_file(layout):
        raise UserError(f"unknown layout '{layout}'; known: auto, {', '.join(LAYOUTS)}, or a .yaml file")
    tree = walk(folder)
    if folder in tree.closed:
        raise UserError(f"{folder}: {tree.closed[folder]}")
    layout, cases, sources, notes = _cases(tree, layout)
    found = [_subject(tree, case) for case in cases]
    if not found or (layout == NAMED and not any(isinstance(item, Subject) for item in found)):
        raise UserError(_nothing_found(tree, f"no subject in the layout {layout}", *found[:1]))
    subjects = sorted((item for item in found if isinstance(item, Subject)), key=lambda subject: subject.name)
    rejections = [*(item for item in found if isinstance(item, Rejection)), *_without_files(tree, cases)]
    rejections.sort(key=lambda rejection: (rejection.subject, rejection.file))
    return Cohort(printable(folder.resolve().name), layout, folder, subjects, rejections, sources, tuple(notes))


def is_layout_file(layout: str) -> bool:
    return layout.lower().endswith((".yaml", ".yml"))


def nifti_files(folder: Path) -> Iterator[Path]:
    """All .nii and .nii.gz below a folder, links followed once; hidden files apart, such as macOS's `._` companions."""
    yield from walk(folder).files.values()


def _cases(tree: Tree, layout: str) -> tuple[str, list[Case], tuple[Path, ...], list[str]]:
    """The layout's name, its cases, the files that it was read from, and notes for people."""
    notes = []
    if layout == "auto":
        layout = _detect(tree)
        notes = _better_named(tree, layout)
    if is_layout_file(layout):
        path = Path(layout).expanduser()
        return path.name, patterns.by_patterns(tree, path), (path,), []
    if layout in layouts.BRATS_ENDINGS:
        return layout, layouts.brats(tree, layout), (), notes
    if layout == NAMED:
        cases, notes = named.named(tree)
        return layout, cases, (), notes
    root = _image_root(tree)
    source = root / layouts.DATASET_JSON
    cases = (layouts.msd if layout == "msd" else layouts.nnunet)(tree, root)
    return layout, cases, (source,) if source.is_file() else (), []


def _detect(tree: Tree) -> str:
    roots = layouts.image_roots(tree)
    brats = {layout: layouts.brats(tree, layout) for layout in ("brats2020", "brats2023")}
    # One file named by chance is no layout.
    present = {layout: [case for case in cases if len(case.files) > 1] for layout, cases in brats.items()}
    examples = {layout: next(iter(cases[0].files.values()))[0].name for layout, cases in present.items() if cases}
    examples |= {layout: f"{shown(root, tree.folder)}/imagesTr" for root, layout in roots.items()}
    whole = [layout for layout, cases in brats.items() if any(case.complete for case in cases)]
    if (whole or roots) and len(examples) > 1:
        listed = " and ".join(f"{layout} (e.g. {printable(example)})" for layout, example in examples.items())
        raise UserError(f"{tree.folder} holds two layouts: {listed}. Give one cohort's folder, or name the layout")
    if roots:
        return next(iter(roots.values()))
    if not whole and any(case.complete for case in named.named(tree)[0]):
        return NAMED
    # Without any annotation, each subject is set aside for it.
    whole = whole or [
        layout for layout, cases in brats.items() if any(case.files.keys() >= set(MODALITIES) for case in cases)
    ]
    if not whole:
        raise UserError(_nothing_found(tree, "no known layout"))
    is_2021 = whole == ["brats2020"] and "brats2021" in examples["brats2020"].lower()
    return "brats2021" if is_2021 else whole[0]


def _better_named(tree: Tree, layout: str) -> list[str]:
    """A hint where the words of more general names would complete subjects that the layout found leaves incomplete."""
    if layout not in layouts.BRATS_ENDINGS or all(case.complete for case in layouts.brats(tree, layout)):
        return []
    more = [sum(case.complete for case in cases) for cases in (layouts.brats(tree, layout), named.named(tree)[0])]
    if more[1] <= more[0]:
        return []
    return [f"{more[0]} subject(s) are complete in the layout {layout}, {more[1]} would be with layout={NAMED}"]


def _image_root(tree: Tree) -> Path:
    roots = list(layouts.image_roots(tree))
    if not roots:
        raise UserError(_nothing_found(tree, "no folder imagesTr"))
    if len(roots) > 1:
        raise UserError(f"{tree.folder} holds several data sets: give one of {', '.join(map(str, roots))}")
    return roots[0]


def _nothing_found(tree: Tree, what: str, *example: Subject | Rejection) -> str:
    """What is there, what each name's ending is taken for, and what was looked for."""
    folder, files = tree.folder, list(tree.files)
    seen = f"{len(files)} NIfTI files, e.g. {shown(files[0], folder)}" if files else "no .nii or .nii.gz file at all"
    lost = [f"{shown(path, folder)}: {reason}" for path, reason in tree.hollow.items() if path.is_symlink()]
    if not files and lost:
        seen += f" ({lost[0]})"
    aside = "".join(f" ({rejection.subject}: {rejection.reason})" for rejection in example)
    endings = named.endings(tree).most_common(SHOWN)
    told = ", ".join(f"{count} × {printable(end)} ({named.meaning(end) or 'unknown'})" for end, count in endings)
    return (
        f"{folder}: {what} was recognised{aside}; it has {seen}. {f'Names end in {told}. ' if endings else ''}"
        "Looked for: *_t1 *_t1ce *_t2 *_flair *_seg (BraTS 2020, 2021), *-t1n *-t1c *-t2w *-t2f *-seg (BraTS 2023 on), "
        "imagesTr/*.nii.gz with labelsTr (Medical Segmentation Decathlon Task01), imagesTr/*_0000.nii.gz … with "
        f"labelsTr and dataset.json (nnU-Net), or names of one subject that end in {named.ACCEPTED}. Rename the files, "
        "or give layout=FILE.yaml with your own patterns (docs/cohorts.md)"
    )


# --- from names to subjects ------------------------------------------------------------------------------------------


def _subject(tree: Tree, case: Case) -> Subject | Rejection:
    """A case as a subject, if each role has one file, and nothing speaks against the file."""
    name = printable(case.name)
    missing = [role for role in case.expected if not case.files.get(role)]
    if missing:
        words = {ANNOTATION: "no annotation", IMAGE: "the image file is missing"}
        what = ", ".join(words.get(role, f"{role} is missing") for role in missing)
        return Rejection(name, shown(case.folder / case.expected[missing[0]], tree.folder), what)
    for role in case.expected:
        first, *others = case.files[role]
        if others:
            listed = " and ".join(shown(path, tree.folder) for path in (first, *others))
            reason = f"{1 + len(others)} files for {role}: {listed}. Which one is right? Keep that one only"
            return Rejection(name, shown(first, tree.folder), reason)
        if reason := fault(tree.files[first]):
            return Rejection(name, shown(first, tree.folder), reason)
    *images, annotation = (tree.files[case.files[role][0]] for role in case.expected)
    return Subject(name, tuple(images), annotation, dict(case.classes), case.channels)


def _without_files(tree: Tree, cases: Sequence[Case]) -> Iterator[Rejection]:
    """Folders that cannot be listed, and those named like their subjects' neighbours that hold none of their files."""
    used = above({path.parent for case in cases for paths in case.files.values() for path in paths}, tree.folder)
    alike = {(folder.parent, _shape(folder.name)) for folder in used}
    others = tree.hollow | {
        folder: f"no name in it fits the layout, e.g. {printable(paths[0].name)}"
        for folder, paths in tree.folders.items()
    }
    named_already = {case.name for case in cases}
    for path, reason in others.items():
        if path not in used and path.name not in named_already and (path.parent, _shape(path.name)) in alike:
            yield Rejection(printable(path.name), shown(path, tree.folder), reason)
    for path, reason in tree.closed.items():
        yield Rejection(printable(path.name), shown(path, tree.folder), reason)


def _shape(name: str) -> str:
    """'BraTS20_Training_003' → 'BraTS#_Training_#': the same for all subjects' folders of a cohort."""
    return re.sub(r"\d+", "#", name)
