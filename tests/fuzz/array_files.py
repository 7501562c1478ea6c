"""Arrays (.npy, .npz) damaged; each mutator says what must become of the set."""

import struct
import zipfile
from pathlib import Path

import numpy as np

from tests.fuzz.sent import CODES, REFUSED, Sent
from tests.fuzz.subjects import ANY, EITHER, SAME


def npy_cut(s: Sent) -> str:
    path = s.folder / s.pick(["images.npy", "labels.npy"])
    content = path.read_bytes()
    path.write_bytes(content[: s.rng.integers(0, len(content))])
    return REFUSED


def npy_header_bits_flipped(s: Sent) -> str:
    path = s.folder / s.pick(["images.npy", "labels.npy"])
    content = bytearray(path.read_bytes())
    for _ in range(s.rng.integers(1, 4)):
        content[s.rng.integers(128)] ^= 1 << int(s.rng.integers(8))
    path.write_bytes(content)
    return ANY


def _npy(header: str | bytes, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    header = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def npy_header_says_anything(s: Sent) -> str:
    shape = s.pick(["(12, 4, 16, 16)", "(10**9,)", "(1000000000000, 4, 16, 16)", "(-12, 4, 16, 16)", "()", "(True, 4)",
                    "(12, 4, 0, 0)", "(0, 4, 16, 16)", "[12, 4, 16, 16]", "None", "(12.0, 4, 16, 16)",
                    "(99999999999999999999999999999, 4, 16, 16)"])  # fmt: skip
    kind = s.pick(["'|u1'", "'|O'", "'<U9999'", "'<c16'", "'<M8[s]'", "[('a', '|u1')]", "'|V8'", "'|b1'", "'nonsense'",
                   "None", "'|u1', 'more': 1", "'(16,16)u1'", "[('a', [('b', [('c', '|O')])])]"])  # fmt: skip
    if (shape, kind) == ("(12, 4, 16, 16)", "'|u1'"):
        kind = "'|O'"
    header = f"{{'descr': {kind}, 'fortran_order': {s.pick(['False', 'True', 'None', '0'])}, 'shape': {shape}, }}\n"
    (s.folder / "images.npy").write_bytes(_npy(header, bytes(12 * 4 * 256)))
    return REFUSED


def npy_header_is_code(s: Sent) -> str:
    header = s.pick(["(" * 5000, "[" * 90 + "]" * 90, "__import__('os').system('touch hacked')", "{'descr':", "",
                     " " * 60000 + "{}", "{" * 300, "-" * 9000 + "1", "lambda: 0", "{**{}}", "'" + "a" * 9000,
                     b"\xff\xfe\x80", b"\0\0\0", "1" * 9000, "0x" + "f" * 9000, "{'descr': '|u1'}" * 20])  # fmt: skip
    version = s.pick([b"\1\0", b"\2\0", b"\3\0", b"\x09\0", b"\0\0"])
    (s.folder / s.pick(["images.npy", "labels.npy"])).write_bytes(_npy(header, bytes(12 * 256 * 4), version))
    return REFUSED


def npy_header_longer_than_the_file(s: Sent) -> str:
    content = b"\x93NUMPY\2\0" + struct.pack("<I", int(s.pick([2**32 - 1, 2**31, 10**6]))) + s.rng.bytes(100)
    (s.folder / s.pick(["images.npy", "labels.npy"])).write_bytes(content)
    return REFUSED


def npy_of_another_version(s: Sent) -> str:
    for name in ("images.npy", "labels.npy"):
        array = np.load(s.folder / name)
        with (s.folder / name).open("wb") as file:
            np.lib.format.write_array(file, array, s.pick([(2, 0), (3, 0)]))
    return SAME


def npy_of_objects(s: Sent) -> str:
    path = s.folder / s.pick(["images.npy", "labels.npy"])
    np.save(path, np.array([Path("x"), 1, None], object), allow_pickle=True)
    return REFUSED


def npy_of_another_type(s: Sent) -> str:
    images = s.base.images
    other = s.pick([images.astype(np.int16), images.astype(np.uint16), images.astype(np.int64), images > 0,
                    images.astype(np.complex64), images.astype("U3"), images.astype(np.float32),
                    images.astype(np.float64) / 100, -images.astype(np.float32) / 255])  # fmt: skip
    np.save(s.folder / "images.npy", other)
    return REFUSED


def npy_of_floats(s: Sent) -> str:
    kind = s.pick([np.float32, np.float64, np.dtype(">f4"), np.dtype(">f8")])
    np.save(s.folder / "images.npy", (s.base.images / 255).astype(kind))
    return SAME


def npy_not_finite(s: Sent) -> str:
    images = (s.base.images / 255).astype(np.float32)
    images[s.number, s.rng.integers(4), 3, 3] = s.pick([np.nan, np.inf, -np.inf, 3e38, -1e-3, 1.01])
    np.save(s.folder / "images.npy", images)
    return REFUSED


def npy_a_millionth_above_one(s: Sent) -> str:
    images = (s.base.images / 255).astype(np.float32)
    images[images == 1] = np.float32(1 + 9e-7)
    np.save(s.folder / "images.npy", images)
    return SAME


def npy_channels_last(s: Sent) -> str:
    np.save(s.folder / "images.npy", np.moveaxis(s.base.images, 1, 3).copy())
    return SAME


def npy_in_fortran_order(s: Sent) -> str:
    np.save(s.folder / "images.npy", np.asfortranarray(s.base.images))
    return EITHER


def npy_of_other_shapes(s: Sent) -> str:
    images = s.base.images
    shape = s.pick([images[:, :3], images[:-1], images[:, :, :-1], images[0], images[:, :, :8, :8], images[:0],
                    np.concatenate([images] * 2, 1), images[None], images.reshape(-1), images[:, :, :, :,
                        None]])  # fmt: skip
    np.save(s.folder / "images.npy", shape)
    return REFUSED


def npy_labels_of_other_types(s: Sent) -> str:
    codes = CODES[s.base.labels]
    np.save(s.folder / "labels.npy", codes.astype(s.pick([np.int16, np.int64, np.uint64, np.dtype(">i4")])))
    return SAME


def npy_labels_wrong(s: Sent) -> str:
    codes = CODES[s.base.labels].astype(np.int64)
    codes[s.number, 2:9, 2:9] = s.pick([-1, 256, 10**6, -(2**63)])
    np.save(s.folder / "labels.npy", codes)
    return REFUSED


def npy_labels_as_classes(s: Sent) -> str:
    np.save(s.folder / "labels.npy", s.pick([CODES[s.base.labels].astype(float), s.base.labels > 0]))
    return ANY


def npy_bytes_after_the_end(s: Sent) -> str:
    with (s.folder / s.pick(["images.npy", "labels.npy"])).open("ab") as file:
        file.write(s.rng.bytes(int(s.rng.integers(1, 3000))))
    return EITHER


def npy_replaced_by_something_else(s: Sent) -> str:
    s.replace_by_no_file(s.folder / s.pick(["images.npy", "labels.npy"]))
    return REFUSED


def npy_another_beside(s: Sent) -> str:
    (s.folder / s.pick(["more.npy", "x.npz", "images.npz"])).write_bytes(
        s.pick([b"", s.rng.bytes(99), (s.folder / "images.npy").read_bytes()])
    )
    return ANY


def _npz(s: Sent) -> Path:
    return s.folder / "sent.npz"


def npz_cut(s: Sent) -> str:
    content = _npz(s).read_bytes()
    _npz(s).write_bytes(content[: s.rng.integers(0, len(content))])
    return REFUSED


def npz_bits_flipped(s: Sent) -> str:
    content = bytearray(_npz(s).read_bytes())
    for _ in range(s.rng.integers(1, 5)):
        content[s.rng.integers(len(content))] ^= 1 << int(s.rng.integers(8))
    _npz(s).write_bytes(content)
    return EITHER  # its checksum sees what hits the pixels


def npz_directory_bits_flipped(s: Sent) -> str:
    content = bytearray(_npz(s).read_bytes())
    for _ in range(s.rng.integers(1, 4)):
        content[-int(s.rng.integers(1, 90))] ^= 1 << int(s.rng.integers(8))
    _npz(s).write_bytes(content)
    return EITHER


def _pack(s: Sent, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(_npz(s), "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npz_members_odd(s: Sent) -> str:
    whole = zipfile.ZipFile(_npz(s)).read("arr_0.npy")
    _pack(s, s.pick([{}, {"../../escaped.npy": whole}, {"/tmp/escaped.npy": whole}, {"a/b/c.npy": whole}, {"": whole},
                     {"folder/": b""}, {"x.txt": b"hello"}, {"a.npy": whole, "b.npy": whole}, {"a": whole,
                         "a.npy": whole},
                     {"two\nlines.npy": whole}, {"x" * 5000 + ".npy": whole}, {"images.npy": b"",
                         "labels.npy": b""}]))  # fmt: skip
    return ANY


def npz_member_of_objects(s: Sent) -> str:
    np.savez(_npz(s), np.array([Path("x"), None], object))
    return REFUSED


def npz_packed_another_way(s: Sent) -> str:
    whole = zipfile.ZipFile(_npz(s)).read("arr_0.npy")
    _pack(s, {"arr_0.npy": whole}, s.pick([zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    return EITHER


def npz_encrypted_or_unknown(s: Sent) -> str:
    content = bytearray(_npz(s).read_bytes())
    directory = content.rindex(b"PK\1\2")
    if s.rng.integers(2):
        content[6] |= 1
        content[directory + 8] |= 1
    else:
        content[8:10] = content[directory + 10 : directory + 12] = struct.pack("<H", int(s.pick([1, 9, 93, 99, 65535])))
    _npz(s).write_bytes(content)
    return REFUSED


def npz_bomb(s: Sent) -> str:
    """A member whose header promises a few slices, and 1 GiB of zeros behind them; or all of them promised."""
    whole = zipfile.ZipFile(_npz(s)).read("arr_0.npy")
    with (
        zipfile.ZipFile(_npz(s), "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        member.write(whole)
        for _ in range(64):
            member.write(bytes(1 << 24))
    return EITHER


def npz_sizes_lie(s: Sent) -> str:
    content = bytearray(_npz(s).read_bytes())
    directory = content.rindex(b"PK\1\2")
    size = struct.pack("<I", int(s.pick([0, 1, 100, 2**31, 2**32 - 2, 2**32 - 1])))
    content[directory + 24 : directory + 28] = size
    if s.rng.integers(2):
        content[22:26] = size
    _npz(s).write_bytes(content)
    return EITHER
