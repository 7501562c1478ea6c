"""Files cut, packed wrongly, gone, linked, or something else; each mutator says what must become of the subject."""

import gzip
import os
import shutil
import socket
import struct
import zlib
from pathlib import Path

from tests.fuzz.subjects import ANY, ASIDE, EITHER, NAMES, SAME, Victim


def cut_off(v: Victim) -> str:
    content = v.path.read_bytes()
    v.path.write_bytes(content[: v.rng.integers(1, len(content))])
    return ASIDE


def cut_before_packing(v: Victim) -> str:
    content = v.content()
    v.write(content[: v.rng.integers(1, len(content))])
    return ASIDE


def cut_last_bytes(v: Victim) -> str:
    v.path.write_bytes(v.path.read_bytes()[: -int(v.rng.integers(1, 9))])
    return ASIDE


def emptied(v: Victim) -> str:
    v.path.write_bytes(b"")
    return ASIDE


def bits_flipped_in_file(v: Victim) -> str:
    content = bytearray(v.path.read_bytes())
    for _ in range(v.rng.integers(1, 5)):
        content[v.rng.integers(len(content))] ^= 1 << int(v.rng.integers(8))
    v.path.write_bytes(content)
    return EITHER if v.gzipped else ANY  # gzip's checksum sees it


def block_zeroed(v: Victim) -> str:
    content = bytearray(v.path.read_bytes())
    start = int(v.rng.integers(len(content)))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    v.path.write_bytes(content)
    return EITHER if v.gzipped else ANY


def noise(v: Victim) -> str:
    v.path.write_bytes(v.rng.bytes(int(v.rng.integers(1, 20_000))))
    return ASIDE


def packed_in_pieces(v: Victim) -> str:
    content = bytes(v.content())
    cut = int(v.rng.integers(len(content)))
    v.path.write_bytes(gzip.compress(content[:cut], 1) + gzip.compress(content[cut:], 6))
    return SAME if v.gzipped else EITHER


def packed_twice(v: Victim) -> str:
    v.path.write_bytes(gzip.compress(gzip.compress(bytes(v.content()))))
    return ASIDE


def not_packed_under_gz(v: Victim) -> str:
    v.path.write_bytes(v.content())
    return EITHER


def zeros_after_gzip(v: Victim) -> str:
    v.path.write_bytes(gzip.compress(bytes(v.content())) + bytes(int(v.rng.integers(1, 2000))))
    return EITHER


def garbage_after_gzip(v: Victim) -> str:
    v.path.write_bytes(gzip.compress(bytes(v.content())) + v.rng.bytes(int(v.rng.integers(1, 2000))))
    return EITHER


def gzip_checksum_wrong(v: Victim) -> str:
    packed = bytearray(gzip.compress(bytes(v.content())))
    packed[-8 + int(v.rng.integers(4))] ^= 0x10
    v.path.write_bytes(packed)
    return ASIDE


def gzip_length_lies(v: Victim) -> str:
    packed = bytearray(gzip.compress(bytes(v.content())))
    packed[-4:] = struct.pack("<I", int(v.rng.choice([0, 1, 2**31, 2**32 - 1, 10**9])))
    v.path.write_bytes(packed)
    return ASIDE


def gzip_header_drawn(v: Victim) -> str:
    packed = bytearray(gzip.compress(bytes(v.content())))
    packed[2:10] = v.rng.bytes(8)
    v.path.write_bytes(packed)
    return EITHER


def gzip_bomb(v: Victim) -> str:
    """The volume, and 1 GiB of zeros after it: a few MiB packed."""
    packer = zlib.compressobj(1, wbits=31)
    packed = packer.compress(bytes(v.content()))
    chunk = bytes(1 << 24)
    for _ in range(64):
        packed += packer.compress(chunk)
    v.path.write_bytes(packed + packer.flush())
    return EITHER


def replaced_by_a_folder(v: Victim) -> str:
    v.path.unlink()
    v.path.mkdir()
    if v.rng.integers(2):
        (v.path / "something.txt").write_text("nothing")
    return ASIDE


def file_in_a_folder_of_its_name(v: Victim) -> str:
    content = v.path.read_bytes()
    v.path.unlink()
    v.path.mkdir()
    (v.path / v.path.name).write_bytes(content)
    return EITHER


def replaced_by_a_fifo(v: Victim) -> str:
    v.path.unlink()
    os.mkfifo(v.path)
    return ASIDE


def replaced_by_a_socket(v: Victim) -> str:
    v.path.unlink()
    here = Path.cwd()
    os.chdir(v.path.parent)  # a socket's name holds no more than 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(v.path.name)
    finally:
        os.chdir(here)
    return ASIDE


def link_to_a_device(v: Victim) -> str:
    v.path.unlink()
    v.path.symlink_to(["/dev/zero", "/dev/null", "/dev/urandom", "/dev/full"][v.rng.integers(4)])
    return ASIDE


def link_broken_or_in_a_circle(v: Victim) -> str:
    v.path.unlink()
    v.path.symlink_to(["gone/for/good.nii.gz", v.path.name, "/proc/self/mem", ".."][v.rng.integers(4)])
    return ASIDE


def link_to_the_file(v: Victim) -> str:
    away = v.folder.parent / f"away{''.join(v.path.suffixes[-2:])}"
    v.path.rename(away)
    v.path.symlink_to(away)
    return SAME


def folder_loop(v: Victim) -> str:
    (v.path.parent / "loop").symlink_to(v.path.parent)
    (v.path.parent / "up").symlink_to(v.folder)
    return EITHER


def two_files_for_one(v: Victim) -> str:
    if v.gzipped:
        v.path.with_suffix("").write_bytes(v.content())
    else:
        v.path.with_name(f"{v.path.name}.gz").write_bytes(gzip.compress(bytes(v.content())))
    return ASIDE


def gone(v: Victim) -> str:
    v.path.unlink()
    return ASIDE


def pointer_of_git_lfs(v: Victim) -> str:
    v.path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234567\n")
    return ASIDE


def another_format(v: Victim) -> str:
    starts = [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"PK\3\4", bytes(128) + b"DICM", b"\x89HDF\r\n\x1a\n", b"<html>404</html>",
        b"NRRD0004\n", b"\x93NUMPY\1\0", b"%PDF-1.4", b"\xfd7zXZ\0", b"BZh9", b"\x28\xb5\x2f\xfd",
    ]  # fmt: skip
    v.path.write_bytes(starts[v.rng.integers(len(starts))] + v.rng.bytes(2000))
    return ASIDE


def copy_of_another_subject(v: Victim) -> str:
    other = max(set(NAMES) - {v.subject}) if v.subject != NAMES[-1] else NAMES[0]
    first, second = sorted((v.subject, other))  # the later one of two is the copy
    for path in sorted(v.folder.rglob("*.nii*")):
        if path.name.startswith(second):
            shutil.copyfile(str(path).replace(second, first), path)
    v.subject = second
    return ASIDE


def companions_of_other_systems(v: Victim) -> str:
    (v.path.parent / f"._{v.path.name}").write_bytes(v.rng.bytes(100))
    (v.path.parent / ".DS_Store").write_bytes(v.rng.bytes(100))
    (v.path.parent / "Thumbs.db").write_bytes(v.rng.bytes(100))
    return SAME
