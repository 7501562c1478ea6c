"""Other collections: a subject's files told by the words at the end of their names, in one folder or in several.

UCSF-PDGM, UPENN-GBM, TCGA-GBM and -LGG, UCSD-PTGBM, BIDS-like names, and folders with T1.nii.gz, T1c.nii.gz, …
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.data.dataset_json import modality
from benchmark.data.layouts import ANNOTATION, MODALITIES, ROLES, Case, told_apart
from benchmark.data.tree import Tree, stem

# Annotations by the words that end their names, in lower case, without anything but letters and digits.
CORRECTED = {
    "seg", "segm", "dseg", "segmentation", "groundtruth", "gt",
    "tumorseg", "tumoursegm", "tumorsegm", "tumourseg", "tumorsegmentation", "tumoursegmentation",
    "bratsseg", "bratstumorseg", "bratstumourseg", "bratstumorsegmentation", "glistrboostmanuallycorrected",
}  # fmt: skip
AUTOMATED = {"automatedapproxsegm", "glistrboost"}  # taken where nothing better is there, and said
WORDS = 4  # at most, at the end of a name
SEPARATORS = re.compile(r"[-_. ]+")
ACCEPTED = (
    "T1: T1, T1n, T1w or T1pre; T1ce: T1ce, T1c, T1Gd or T1post; T2: T2 or T2w; FLAIR: FLAIR or T2f; "
    "annotation: seg, segm, segmentation, tumor_seg or tumor_segmentation"
)


@dataclass
class _Group:
    """Files of one case in one folder."""

    name: str
    folder: Path
    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    @property
    def complete(self) -> bool:
        return all(role in self.files for role in ROLES)


def named(tree: Tree) -> tuple[list[Case], list[str]]:
    """The cases, and what a person should know of how annotations were chosen."""
    by_key: dict[str, dict[Path, _Group]] = defaultdict(dict)
    for folder, path in ((folder, path) for folder, paths in tree.folders.items() for path in paths):
        if found := recognise(stem(path)):
            case, role = found
            # Without a name of its own, the subject is its folder's.
            key = SEPARATORS.sub("_", case.lower()) if case else f"/{folder}"
            name = case or (folder.resolve() if folder == tree.folder else folder).name
            by_key[key].setdefault(folder, _Group(name, folder)).files[role].append(path)

    groups = {key: _merged(list(folders.values())) for key, folders in by_key.items()}
    extra = _masks_beside(groups)
    notes = Counter()
    cases = []
    for key, merged in groups.items():
        if key not in extra:
            cases += [_case(group, notes) for group in merged]
    said = [f"{count} subject(s) {what}" for what, count in sorted(notes.items())]
    return told_apart(cases, tree.folder), said


def recognise(name: str) -> tuple[str, str] | None:
    """A stem as (case, role), by the longest ending that is known: 'A_2_T1_post' is T1ce of 'A_2'."""
    starts = [0, *(match.end() for match in SEPARATORS.finditer(name))]
    for start in starts[-WORDS:]:
        if role := _role(name[start:]):
            return name[:start].rstrip("-_. "), role
    return None


def _role(ending: str) -> str | None:
    return ANNOTATION if _word(ending) in CORRECTED | AUTOMATED else modality(ending)


def _word(ending: str) -> str:
    return re.sub(r"[^a-z0-9]", "", ending.lower())


def _merged(groups: Sequence[_Group]) -> list[_Group]:
    """One case's groups as one, over folders (UPENN-GBM: images_structural, images_segm); but two that are complete,
    each in its folder, are two subjects of one name."""
    whole = [group for group in groups if group.complete]
    if len(whole) > 1:
        rest = [group for group in groups if not group.complete]
        return [*whole, *(_merged(rest) if rest else [])]
    first = min(groups, key=lambda group: (-len(group.files), group.folder))
    merged = _Group(first.name, first.folder)
    for group in groups:
        for role, paths in group.files.items():
            merged.files[role] += paths
    return [merged]


def _masks_beside(groups: dict[str, list[_Group]]) -> set[str]:
    """Keys that hold annotations only and lie beside a case: X_brain_segmentation beside X_tumor_segmentation and X_T1,
    brain_seg beside seg and T1."""
    lone = {key for key, merged in groups.items() if all(group.files.keys() == {ANNOTATION} for group in merged)}
    whole = groups.keys() - lone
    return {
        key
        for key in lone
        if any(key[: match.start()] in whole for match in re.finditer("_", key))
        or all(f"/{path.parent}" in whole for group in groups[key] for path in group.files[ANNOTATION])
    }


def _case(group: _Group, notes: Counter) -> Case:
    files = {role: sorted(paths) for role, paths in group.files.items()}
    automated = [path for path in files.get(ANNOTATION, []) if _is_automated(path)]
    corrected = [path for path in files.get(ANNOTATION, []) if path not in automated]
    if automated and corrected:
        files[ANNOTATION] = corrected
        notes[f"have two annotations: *{_tail(corrected[0])} is read, *{_tail(automated[0])} is left"] += 1
    elif automated:
        notes[f"have only *{_tail(automated[0])}, an annotation that was not corrected by hand"] += 1
    expected = {modality: f"{group.name}_{modality}.nii.gz" for modality in MODALITIES}
    expected[ANNOTATION] = f"{group.name}_seg.nii.gz"
    return Case(group.name, group.folder, expected, files)


def _is_automated(path: Path) -> bool:
    case, _ = recognise(stem(path))
    return _word(stem(path)[len(case) :]) in AUTOMATED


def _tail(path: Path) -> str:
    case, _ = recognise(stem(path))
    return stem(path)[len(case) :]


def endings(tree: Tree) -> Counter[str]:
    """How the names end: what is left of each beside its folder's common beginning, numbers as #; with counts."""
    found = Counter()
    for paths in tree.folders.values():
        names = [stem(path) for path in paths]
        first, last = min(names), max(names)
        common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        start = max((match.start() for match in SEPARATORS.finditer(first[:common])), default=0)
        found.update(re.sub(r"\d{2,}", "#", name[start:]) for name in names)
    return found


def meaning(ending: str) -> str | None:
    """What an ending is taken for, if anything."""
    found = recognise(f"case{ending if SEPARATORS.match(ending) else '_' + ending}")
    return found and found[1]
