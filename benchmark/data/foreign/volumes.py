"""NIfTI volumes in a cohort's layout."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmark.data import cohorts, preparation
from benchmark.data.cohorts import Rejection
from benchmark.data.foreign.facts import NO_VALUES, Facts, Part, Progress


class Volumes:
    """NIfTI volumes as cohorts have them: every axial slice with enough brain, as those of training subjects."""

    format, unit = "NIfTI volumes", "volume"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cohort = cohorts.find(folder)
        self.files = sorted([*cohorts.nifti_files(folder), *folder.rglob("dataset.json")])
        self.count = len(self._cohort.subjects)

    def inspect(self, image_size: int, workers: int) -> Iterator[Facts]:
        """Nothing: volumes are resized, and `read` sets aside those that cannot be used, one by one."""
        return (Facts(subject.name, {}, [], NO_VALUES) for subject in self._cohort.subjects)

    def read(
        self, image_size: int, coding: str, scratch: Path, workers: int, progress: Progress
    ) -> Iterator[Part | Rejection]:
        """The slices of each volume, in the order of the volumes' names."""
        yield from self._cohort.rejections
        subjects = self._cohort.subjects
        with (
            preparation.scratch_folder(scratch / "subjects.partial") as folder,
            closing(
                preparation.slice_all(self._cohort, subjects, [False] * self.count, folder / "all", image_size, workers)
            ) as sliced,
        ):
            for subject, files, result in sliced:
                if not isinstance(result, Rejection):
                    result = preparation.useless(self._cohort, subject, result, {}) or result  # copies stay: they count
                if isinstance(result, Rejection):
                    yield result
                else:
                    images, labels = (
                        np.load(files / name, allow_pickle=False) for name in ("images.npy", "labels.npy")
                    )
                    count = len(images)
                    yield Part([subject.name] * count, result.z.tolist(), images, labels, np.zeros(count, np.float32))
                shutil.rmtree(files)
                progress(1)
