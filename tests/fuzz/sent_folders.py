"""Folders of PNG slices: gone, twice, called oddly; each mutator says what must become of the set."""

import shutil

from tests.fuzz.sent import FOLDERS, ODD_NAMES, REFUSED, Sent
from tests.fuzz.subjects import SAME


def png_names_are_odd(s: Sent) -> str:
    name = s.pick(ODD_NAMES)
    for channel in FOLDERS:
        (s.folder / channel / f"{s.number:04d}.png").rename(s.folder / channel / f"{name}{s.number:04d}.png")
    return SAME


def png_folders_called_otherwise(s: Sent) -> str:
    others = s.pick([("t1", "t1c", "t2", "flair", "seg"), ("T1n", "T1Gd", "T2w", "T2f", "mask")])
    for channel, other in zip(FOLDERS, others, strict=True):
        (s.folder / channel).rename(s.folder / other)
    return SAME


def png_folder_gone(s: Sent) -> str:
    shutil.rmtree(s.folder / s.pick(list(FOLDERS)))
    return REFUSED


def png_folder_twice(s: Sent) -> str:
    shutil.copytree(s.folder / "T1", s.folder / s.pick(["t1", "T1n", "t_1"]))
    return REFUSED


def png_folder_is_a_loop(s: Sent) -> str:
    name = s.pick(list(FOLDERS))
    shutil.rmtree(s.folder / name)
    (s.folder / name).symlink_to(s.pick([name, ".", "/dev/zero", "/proc"]))
    return REFUSED


def folder_called_oddly(s: Sent) -> str:
    s.folder = s.folder.rename(s.folder.parent / s.pick(ODD_NAMES))
    return SAME
