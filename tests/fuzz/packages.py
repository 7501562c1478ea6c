"""Packages that somebody released, damaged on their way; nothing is taken of one that is not as it left."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.data.foreign.package import CHANNELS, CHECKSUMS, DECLARATION
from tests.fuzz import sent_folders
from tests.fuzz.sent import COUNT, ODD_NAMES, REFUSED, Sent
from tests.fuzz.subjects import ANY, SAME


def package_is_sound(s: Sent) -> str:
    return SAME


def package_bits_flipped(s: Sent) -> str:
    path = _any_file(s)
    content = bytearray(path.read_bytes())
    for _ in range(s.rng.integers(1, 6)):
        content[s.rng.integers(len(content))] ^= 1 << int(s.rng.integers(8))
    changed = bytes(content) != path.read_bytes()  # two flips may meet
    path.write_bytes(content)
    return REFUSED if changed and path.name != CHECKSUMS else ANY  # a hex digit's case may be all that flipped


def package_file_cut(s: Sent) -> str:
    path = _any_file(s)
    content = path.read_bytes()
    path.write_bytes(content[: s.rng.integers(len(content))])
    return REFUSED


def package_file_replaced(s: Sent) -> str:
    path = _any_file(s)
    s.replace_by_no_file(path)
    return ANY if path.name == DECLARATION else REFUSED  # without one it is a folder of slices


def package_file_moved(s: Sent) -> str:
    path = _slice(s)
    path.rename(path.with_name(s.pick(["000099.png", "0.png", ".hidden", *ODD_NAMES])))
    return REFUSED


def package_files_swapped(s: Sent) -> str:
    one, other = _slice(s), s.folder / "README.md"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return REFUSED


def package_with_something_extra(s: Sent) -> str:
    place = s.folder / s.pick([".", "T1", "SEG"])
    name = s.pick(["extra.png", ".DS_Store", *ODD_NAMES])
    match s.rng.integers(4):
        case 0:
            (place / name).write_bytes(b"anything")
        case 1:
            (place / name).symlink_to(s.pick([".", "/", "/dev/zero", "gone"]))
        case 2:
            os.mkfifo(place / name)
        case _:
            (place / name).mkdir()
            (place / name / "000000.png").write_bytes(b"")
    return REFUSED


def package_declares_something_else(s: Sent) -> str:
    """With the checksum that fits: whoever sends it may have made it so."""
    declared = json.loads((s.folder / DECLARATION).read_text())
    key = s.pick(["stand_in_package", "format", "image_size", "slices", "spacing", "simulated"])
    if s.rng.integers(4):
        declared[key] = s.pick([None, [], {}, "text", -1, 0, 1e300, 2, 10**40, 10**9, [[]], [0, 0, 0], "nifti",
                                "arrays", [1e400, 1, 1], [float("nan")] * 3, COUNT + 1, COUNT - 1, 12.0,
                                "\x1b[31m\n"])  # fmt: skip
    else:
        del declared[key]
    _rewrite(s.folder, DECLARATION, json.dumps(declared).encode())
    return REFUSED


def package_declaration_is_no_dictionary(s: Sent) -> str:
    content = s.pick([b"", b"[]", b"null", b"12", b'"text"', b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\0\1",
                      b"1" * 10_000, b" " * (2 << 20), s.rng.bytes(500), b'{"stand_in_package": 1}'])  # fmt: skip
    _rewrite(s.folder, DECLARATION, content)
    return REFUSED


def package_checksums_are_something_else(s: Sent) -> str:
    path = s.folder / CHECKSUMS
    lines = path.read_text().splitlines()
    number = int(s.rng.integers(len(lines)))
    digest, name = lines[number].split("  ")
    lines[number] = s.pick([
        f"{digest}  ../{name}", f"{digest}  /{name}", f"{digest}  {name}\0", f"{digest} {name}", name, "",
        f"{digest}  {name} ", f"{digest}  ./{name}", f"{'0' * 64}  {name}", f"{digest}  {'a' * 300}", f"{digest}  T1",
        digest * 9,
    ])  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return REFUSED


def package_checksums_are_no_text(s: Sent) -> str:
    path = s.folder / CHECKSUMS
    path.write_bytes(s.pick([b"", b"\xff\xfe\0\1", s.rng.bytes(500), b"\0" * 500, path.read_text().encode("utf-16")]))
    return REFUSED


def package_checksums_replaced(s: Sent) -> str:
    s.replace_by_no_file(s.folder / CHECKSUMS)
    return REFUSED


def package_of_other_pixels(s: Sent) -> str:
    """With the checksum that fits, but no slice of this size, coding or kind."""
    path = _slice(s)
    size = Image.open(path).size[0]
    wrong = [
        Image.fromarray(np.zeros((size + 1, size), np.uint8)),
        Image.fromarray(np.zeros((size, size, 3), np.uint8)),
        Image.fromarray(np.zeros((size, size), np.uint16)),
    ]
    if path.parent.name == "SEG":
        wrong.append(Image.fromarray(np.full((size, size), s.pick([1, 50, 77, 255]), np.uint8)))
    s.pick(wrong).save(path)
    _rewrite(s.folder, path.relative_to(s.folder).as_posix(), path.read_bytes())
    return REFUSED


def package_called_oddly(s: Sent) -> str:
    return sent_folders.folder_called_oddly(s)


def _any_file(s: Sent) -> Path:
    return s.pick([_slice(s), _slice(s), *(s.folder / name for name in ("README.md", DECLARATION, CHECKSUMS))])


def _slice(s: Sent) -> Path:
    return s.folder / s.pick(list(CHANNELS)) / f"{s.number:06d}.png"


def _rewrite(folder: Path, name: str, content: bytes) -> None:
    """Another content of a file, listed with its checksum."""
    (folder / name).write_bytes(content)
    path = folder / CHECKSUMS
    lines = [line for line in path.read_text().splitlines() if not line.endswith(f"  {name}")]
    path.write_text("\n".join([*lines, f"{hashlib.sha256(content).hexdigest()}  {name}"]) + "\n")
