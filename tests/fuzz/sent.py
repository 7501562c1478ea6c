"""A synthetic set that somebody sent, in the form that is to be damaged."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

COUNT = 12
CODES = np.array([0, 51, 102, 204], np.uint8)
FOLDERS = ("T1", "T1ce", "T2", "FLAIR", "SEG")
NOT_TAKEN = "not taken"  # the slice is set aside, or the set refused
REFUSED = "refused"  # the set is refused
ODD_NAMES = [
    "sent (1)", "=cmd|' 'C calc'!A1", "<script>alert(1)<", "$\\input{x}$", "two\nlines", "\u202egnp.", "a,b", " lead",
    "ünï-文字-🧠", "%s%n%d", "'; drop table runs; --", "-rf", "a" * 120, "tab\there", "\x1b[31mred", "a:b|c?d*e", "..a",
    "NaN", "null", "#comment", "a&b", "\u00e9 and e\u0301", "quote\"d",
]  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A prepared cohort, and an undamaged set of its slices in every form."""

    cohort: Path
    work: Path
    folders: dict[str, Path]
    images: np.ndarray  # [N, 4, H, W]
    labels: np.ndarray  # [N, H, W]
    volumes: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass
class Sent:
    """The set to damage."""

    base: Base
    folder: Path
    rng: np.random.Generator
    number: int = 0  # the slice to damage
    subject: str = ""  # or the volume

    def pick(self, options: list):
        return options[self.rng.integers(len(options))]

    @property
    def png(self) -> Path:
        """A file of the slice to damage."""
        return self.folder / FOLDERS[self.rng.integers(5)] / f"{self.number:04d}.png"

    def replace_by_no_file(self, path: Path) -> None:
        """Puts something else in a file's place: a folder, a pipe, a device, a link that leads nowhere, a pointer."""
        path.unlink()
        match self.rng.integers(6):
            case 0:
                path.mkdir()
            case 1:
                os.mkfifo(path)
            case 2:
                path.symlink_to(self.pick(["/dev/zero", "/dev/null", "/dev/urandom"]))
            case 3:
                path.symlink_to(path.name)
            case 4:
                path.symlink_to(f"gone{path.suffix}")
            case _:
                path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
