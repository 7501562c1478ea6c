"""NIfTI volumes in a cohort's layout: read as real subjects are, with the same label conventions."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmark.data import cohorts, preparation
from benchmark.data.cohorts import Rejection
from benchmark.data.foreign.coding import Coding, named_for_sets, of_volumes
from benchmark.data.foreign.facts import Part, Progress
from benchmark.data.reading import Workers, slice_all, understand, why_unusable
from benchmark.data.slicing import Frame
from benchmark.errors import UserError


class Volumes:
    """NIfTI volumes as cohorts have them: every axial slice with enough brain, as those of training subjects."""

    format, unit = "NIfTI volumes", "volume"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cohort = cohorts.find(folder)
        self.files = self._cohort.files
        self.count = len(self._cohort.subjects)

    def understand(self, workers: int, wanted: str) -> Coding:
        """Reads all annotations: what their values mean. Sizes are not checked: volumes are resized.

        Raises UserError where that cannot be told.
        """
        try:
            with Workers(workers) as processes:
                understood = understand(self._cohort, wanted, processes)
        except UserError as error:
            raise UserError(f"{self.folder}: {named_for_sets(error)}") from error
        return of_volumes(understood, self._cohort.notes)

    def read(
        self, frame: Frame, coding: Coding, scratch: Path, workers: int, progress: Progress
    ) -> Iterator[Part | Rejection]:
        """The slices of each volume, in the order of the volumes' names; those that cannot be used are set aside."""
        cohort = coding.understood.cohort
        yield from cohort.rejections
        every = [False] * len(cohort.subjects)
        with (
            preparation.scratch_folder(scratch / "subjects.partial") as folder,
            Workers(workers) as processes,
            closing(slice_all(cohort, cohort.subjects, every, folder / "all", frame, processes)) as sliced,
        ):
            for subject, files, result in sliced:
                if not isinstance(result, Rejection):
                    result = why_unusable(cohort, subject, result, {}) or result  # copies stay: they count
                if isinstance(result, Rejection):
                    yield result
                else:
                    images, labels = (
                        np.load(files / name, allow_pickle=False) for name in ("images.npy", "labels.npy")
                    )
                    count, remarks = len(images), [*result.remarks]
                    if result.cut:
                        remarks.append(f"{result.cut} voxels above 0 lie outside the field of view")
                    yield Part(
                        [subject.name] * count,
                        result.z.tolist(),
                        images,
                        labels,
                        np.zeros(count, np.float32),
                        tuple(f"{subject.name}: {remark}" for remark in remarks),
                    )
                shutil.rmtree(files)
                progress(1)
