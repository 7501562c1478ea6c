"""What checking a set's files finds, and slices on their way into the SliceSet."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from benchmark.data.cohorts import RejectedSubject
from benchmark.errors import UserError

SHOWN = 20  # problems in a refusal
BATCH = 64  # slices in memory at once
LONGEST_WORDS = 300  # characters of what a decoder says: numpy repeats a header in full

Progress = Callable[[int], None]  # told how many slices (of volumes: subjects) more are done


@dataclass(frozen=True)
class Part:
    """Some slices on their way into the set."""

    subjects: list[str]  # where each came from: the file's stem, the volume's case, the array's row
    z: list[int]  # -1 where it is not known
    images: np.ndarray  # uint8 [B, 4, H, W]
    labels: np.ndarray  # uint8 [B, H, W], classes 0–3
    off_code: np.ndarray  # float32 [B]: share of pixels whose annotation was far from every code
    remarks: tuple[str, ...] = ()  # what is odd, and no reason to set anything aside


@dataclass(frozen=True)
class Facts:
    """What was seen of one slice."""

    where: str  # the annotation's file
    sizes: dict[str, tuple[int, int]]  # (H, W) of each file that could be read
    problems: list[str]
    values: np.ndarray  # int [256]: pixels of each annotation value


NO_VALUES = np.zeros(256, int)


class Sizes:
    """The sizes that occur, with files as examples."""

    def __init__(self) -> None:
        self.count: Counter[tuple[int, int]] = Counter()
        self.files: dict[tuple[int, int], list[str]] = defaultdict(list)

    def add(self, sizes: dict[str, tuple[int, int]]) -> None:
        for file, size in sizes.items():
            self.count[size] += 1
            if len(self.files[size]) < 3:
                self.files[size].append(file)

    def problems(self, image_size: int) -> list[str]:
        if self.count.keys() <= {(image_size, image_size)}:
            return []
        (height, width), _ = self.count.most_common(1)[0]
        if height != width or height % 8 or not 16 <= height <= 1024:
            remedy = "no image_size fits: it must be square, 16 to 1024 px, and a multiple of 8"
        else:
            remedy = f"give image_size={height}" if height != image_size else "all must be of that size"
        if len(self.count) == 1:
            return [f"slices of {height} × {width} px, but the cohort is prepared at {image_size} px: {remedy}"]
        listed = "; ".join(
            f"{size[0]} × {size[1]} px: {count} files, e.g. {', '.join(self.files[size])}"
            for size, count in self.count.most_common(SHOWN)
        )
        return [f"sizes differ, and the cohort is prepared at {image_size} px: {remedy}. {listed}"]


def refuse(folder: Path, problems: Iterable[str]) -> None:
    """Raises UserError with the first problems and the number of all, where there are any."""
    problems = iter(problems)
    if shown := [*islice(problems, SHOWN)]:
        more = sum(1 for _ in problems)
        listed = "".join(f"\n  {problem}" for problem in shown) + (f"\n  … and {more} more" if more else "")
        raise UserError(f"{folder}: {len(shown) + more} problem(s), nothing was imported:{listed}")


def parallel(work: Callable[[int], object], count: int, workers: int) -> Iterator:
    """work(0), work(1), … in order, by threads: decoding lets go of the interpreter's lock."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, count, BATCH):
            yield from pool.map(work, range(start, min(start + BATCH, count)))


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Around a decoder: whatever it raises becomes a RejectedSubject that names the file and keeps the words.

    On damaged bytes decoders raise exceptions of many kinds: Pillow SyntaxError, numpy TokenError, nibabel TypeError.
    """
    try:
        yield
    except RejectedSubject:
        raise
    except Exception as error:
        words = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        if len(words) > LONGEST_WORDS:
            words = f"{words[:LONGEST_WORDS]} …"
        raise RejectedSubject(path, f"truncated or unreadable: {words}") from error
