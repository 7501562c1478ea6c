"""Family 2: a synthetic set that somebody sent, damaged: PNG folders, arrays, NIfTI volumes, SliceSets, packages.

It is refused as a whole with one message, or its damaged slices are set aside and the others come out unchanged.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.data.foreign.package import DECLARATION, Declaration
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.release.encoding import write_slices
from benchmark.release.writing import PackageFiles
from tests.fuzz import (
    array_files,
    cohorts,
    harness,
    nifti_files,
    packages,
    png_slices,
    sent_folders,
    slice_sets,
    subjects,
)
from tests.fuzz.harness import Case, Ended, WrongValueError
from tests.fuzz.sent import CODES, COUNT, FOLDERS, NOT_TAKEN, REFUSED, Base, Sent
from tests.fuzz.subjects import ANY, ASIDE, EITHER, SAME


def volume_damaged(s: Sent) -> str:
    """As a cohort's file is."""
    mutator = cohorts.MUTATORS[s.rng.integers(len(cohorts.MUTATORS))]
    while mutator is nifti_files.copy_of_another_subject:  # in a synthetic set copies count
        mutator = cohorts.MUTATORS[s.rng.integers(len(cohorts.MUTATORS))]
    s.subject = s.pick(list(subjects.NAMES))
    files = sorted(path for path in s.folder.rglob("*.nii*") if path.name.startswith(s.subject))
    return mutator(subjects.Victim(s.folder, s.pick(files), s.subject, "brats .nii.gz", s.rng))


FORM_OF: dict[Callable[[Sent], str], str] = {
    **dict.fromkeys(harness.mutators_of(png_slices, sent_folders), "png"),
    **{mutator: mutator.__name__[:3] for mutator in harness.mutators_of(array_files)},
    volume_damaged: "volumes",
    **dict.fromkeys(harness.mutators_of(slice_sets), "slices"),
    **dict.fromkeys(harness.mutators_of(packages), "package"),
}
MUTATORS = list(FORM_OF)


def prepare(root: Path) -> Base:
    cohort, work = root / "cohort", root / "prepared"
    subjects.write_cohort(cohort, "brats .nii.gz")
    work.mkdir()
    ended = harness.in_child(cohorts.call_for(cohort), work)
    assert ended.code == 0, ended.output
    slices = harness.only_folder(work / "work" / "prepare")
    opened = SliceSet.open(slices)
    rows = np.linspace(0, len(opened) - 1, COUNT).astype(int)
    images, labels = np.array(opened.images[rows]), np.array(opened.labels[rows])
    assert images.any((2, 3)).all()
    folders = {name: root / name for name in ("png", "npy", "npz", "volumes", "slices", "package")}
    for channel, name in enumerate(FOLDERS):
        (folders["png"] / name).mkdir(parents=True)
        for number in range(COUNT):
            pixels = images[number, channel] if channel < 4 else CODES[labels[number]]
            Image.fromarray(pixels).save(folders["png"] / name / f"{number:04d}.png")
    for name in ("npy", "npz"):
        folders[name].mkdir()
    np.save(folders["npy"] / "images.npy", images)
    np.save(folders["npy"] / "labels.npy", CODES[labels])
    np.savez_compressed(folders["npz"] / "sent.npz", np.concatenate([images, CODES[labels][:, None]], 1))
    subjects.write_cohort(folders["volumes"], "brats .nii.gz")
    shutil.copytree(slices, folders["slices"])
    _write_package(folders["package"], images, labels)
    return Base(cohort, work / "work", folders, images, labels, harness.by_subject(slices))


def _write_package(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A sound package of PNG slices, as the stage release writes it."""
    name, spacing = "sent", [2.0, 1.0, 1.0]
    declared = Declaration("png", images.shape[-1], len(images), spacing, simulated=True)
    meta = {"kind": "synthetic", "cohort": "phantom", "simulated": True, "spacing": {name: spacing}}
    with SliceWriter(folder.with_name("released"), images.shape[-1], meta) as writer:
        writer.append(images, labels, subject=name, seed=-1, z=-1, split="synthetic")
    with PackageFiles(folder) as files:
        write_slices(files, SliceSet.open(folder.with_name("released")), declared, name, 1, lambda _: None)
        files.add("README.md", lambda: [b"# A set\n"])
        files.add(DECLARATION, lambda: [declared.to_json().encode()])


def make_case(base: Base, folder: Path, rng: np.random.Generator, mutator: Callable[[Sent], str]) -> Case:
    form = FORM_OF[mutator]
    data = folder / "sent"
    shutil.copytree(base.folders[form], data)
    sent = Sent(base, data, rng, int(rng.integers(COUNT)))
    promise = mutator(sent)
    keys = {"preset": "smoke", "data": str(base.cohort), "workers": "1", "work_dir": "work"}
    keys["synthetic"] = str(sent.folder)
    shutil.copytree(base.work, folder / "work")
    if form == "slices":
        stage = "train_segmenter" if rng.integers(3) else "audit"
        keys |= {"train_on": "synthetic", "train_segmenter.images": "16"} if stage == "train_segmenter" else {}
        holds = {SAME: harness.taken, REFUSED: harness.refused}.get(promise, harness.anything)
    else:
        stage, holds = "import_samples", _imported(sent, folder, form, promise)
    return Case([stage, *(word for key, value in keys.items() for word in (f"--{key}", value))], holds)


def _imported(sent: Sent, folder: Path, form: str, promise: str) -> Callable[[Ended], str]:
    """What must hold of an import."""

    def holds(ended: Ended) -> str:
        if ended.code:
            if promise in (SAME, ASIDE):
                raise WrongValueError(f"the whole set is refused: {harness.message(ended)[:300]}")
            return "refused"
        if promise == REFUSED:
            raise WrongValueError("taken, though it must be refused")
        out = harness.only_folder(folder / "work" / "import_samples")
        if form == "volumes":
            found, expected, damaged = harness.by_subject(out), sent.base.volumes, sent.subject
        else:
            found, expected, damaged = _by_number(out), _expected(sent.base), sent.number
        for name, arrays in expected.items():
            if name != damaged and promise != ANY and not (name in found and harness.same(found[name], arrays)):
                raise WrongValueError(f"slice {name}, which was not damaged, is changed or gone")
        if damaged not in found:
            if promise == SAME:
                raise WrongValueError("set aside, though it is sound")
            return "set aside"
        if promise in (ASIDE, NOT_TAKEN):
            raise WrongValueError("read, though it cannot be used")
        equal = harness.same(found[damaged], expected[damaged])
        if not equal and promise in (SAME, EITHER):
            raise WrongValueError("read as something else than it holds")
        return "read right" if equal else "read"

    return holds


def _by_number(folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Slices by their number, which ends a file's stem ('0004') and an array's row ('images.npy 4')."""
    slices = SliceSet.open(folder)
    digits = slices.index["subject"].str.extract(r"(\d+)$")[0].fillna("-1").astype(int)
    return {number: (np.array(slices.images[row]), np.array(slices.labels[row])) for row, number in enumerate(digits)}


def _expected(base: Base) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    return {number: (base.images[number], base.labels[number]) for number in range(COUNT)}
