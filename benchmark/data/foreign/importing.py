"""A synthetic set that somebody sent → SliceSet: every file is checked before anything is written.

What cannot be decided, or concerns the whole set, is refused with a list. A single file that is damaged, or a slice in
which a modality is empty, becomes a `Rejection`, and the others go on.
"""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.data import preparation
from benchmark.data.cohorts import Rejection
from benchmark.data.foreign.coding import Coding, Values, named_for_sets
from benchmark.data.foreign.detect import Sent
from benchmark.data.foreign.facts import SHOWN, Progress, Sizes, refuse
from benchmark.data.foreign.package import Package
from benchmark.data.foreign.volumes import Volumes
from benchmark.data.slices import CLASSES, SliceWriter
from benchmark.data.slicing import BRAIN_SHARE, T1_THRESHOLD, Frame, enough_brain
from benchmark.errors import UserError

RARE = 1e-3  # of the tumour's pixels: a class that has fewer counts as hardly there


@dataclass(frozen=True)
class Imported:
    """A set after its import: counts, what was set aside, and what to tell people."""

    rejections: list[Rejection]  # as in rejected.csv
    remarks: list[str]  # what is odd of single volumes
    pixels: np.ndarray  # int [4]: of each class

    @property
    def absent(self) -> list[str]:
        """Classes that the set has nowhere, or hardly; none where nothing is annotated at all."""
        tumour = self.pixels[1:].sum()
        return [name for name, count in zip(CLASSES[1:], self.pixels[1:], strict=True) if count < RARE * tumour]


def check(found: Sent, image_size: int, workers: int, progress: Progress, set_labels: str = "auto") -> Coding:
    """Looks at every file before anything is written; returns how the annotation is coded.

    `set_labels` says what the annotation's values mean, where they do not: see `labels.check_name`.

    Raises UserError, with the list, for files that are not 8-bit grey, sizes that differ or are not `image_size`,
    arrays out of range, and annotation values that are no class.
    """
    if isinstance(found, Volumes):
        coding = found.understand(workers, set_labels)
        progress(found.count)
        return coding
    if isinstance(found, Package):
        return found.understand(image_size, progress)
    problems, sizes, values = [], Sizes(), Values()
    for facts in found.inspect(image_size, workers):
        problems += facts.problems
        sizes.add(facts.sizes)
        values.add(facts.where, facts.values)
        progress(1)
    problems = [*sizes.problems(image_size), *problems]
    try:
        coding, unknown = values.coding(set_labels)
    except UserError as error:
        raise UserError(f"{found.folder}: {named_for_sets(error)}") from error
    refuse(found.folder, [*problems, *unknown])
    return coding


def write(
    found: Sent,
    coding: Coding,
    out: Path,
    meta: dict,
    *,
    frame: Frame,
    workers: int,
    progress: Progress,
) -> Imported:
    """Writes the SliceSet and `out/rejected.csv`; `coding` is what `check` returned.

    Raises UserError where nothing is left, or no slice has enough brain: `out` then has no set that opens.
    """
    rejections, remarks, pixels = [], [], np.zeros(len(CLASSES), int)
    brain = isinstance(found, Package)  # its slices are what was released, whatever they show
    with SliceWriter(out, frame.image_size, {**meta, "format": found.format, "annotation": coding.name}) as writer:
        with closing(found.read(frame, coding, out, workers, progress)) as parts:
            for part in parts:
                if isinstance(part, Rejection):
                    rejections.append(part)
                    continue
                remarks += part.remarks
                brain = brain or enough_brain(part.images[:, 0], frame.study_pixels).any()
                pixels += np.bincount(part.labels.ravel(), minlength=len(CLASSES))
                writer.append(
                    part.images,
                    part.labels,
                    subject=part.subjects,
                    z=part.z,
                    split="synthetic",
                    off_code=part.off_code.tolist(),
                )
        preparation.write_rejected(out / "rejected.csv", rejections)
        if writer.count == 0:
            reasons = Counter(rejection.reason for rejection in rejections).most_common(SHOWN)
            listed = "; ".join(f"{count} × {reason}" for reason, count in reasons)
            raise UserError(f"{found.folder}: nothing usable is left of {len(rejections)}. {listed}")
        if not brain:
            raise UserError(
                f"{found.folder}: no slice shows a brain: T1 is above {T1_THRESHOLD} of 255 in more than "
                f"{BRAIN_SHARE:.0%} of the pixels of none. Is the channel T1 the T1 image, in 8 bit?"
            )
    return Imported(rejections, remarks, pixels)
