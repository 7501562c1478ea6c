"""PNG slices damaged; each mutator says what must become of the slice, or of the set."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from tests.fuzz.sent import COUNT, FOLDERS, NOT_TAKEN, REFUSED, Sent
from tests.fuzz.subjects import ANY, ASIDE, EITHER, SAME


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, depth: int, colour: int, packed: bytes, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + before + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def png_cut(s: Sent) -> str:
    path = s.png
    content = path.read_bytes()
    path.write_bytes(content[: s.rng.integers(0, len(content))])
    return EITHER  # without its last chunk all pixels are there


def png_bits_flipped(s: Sent) -> str:
    path = s.png
    content = bytearray(path.read_bytes())
    for _ in range(s.rng.integers(1, 5)):
        content[s.rng.integers(len(content))] ^= 1 << int(s.rng.integers(8))
    path.write_bytes(content)
    return EITHER


def png_noise(s: Sent) -> str:
    s.png.write_bytes(s.rng.bytes(int(s.rng.integers(0, 3000))))
    return NOT_TAKEN


def png_noise_after_signature(s: Sent) -> str:
    s.png.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + s.rng.bytes(int(s.rng.integers(0, 3000))))
    return NOT_TAKEN


def png_is_another_format(s: Sent) -> str:
    path, content = s.png, BytesIO()
    image = Image.open(path).copy()
    image.save(content, s.pick(["JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM", "TGA", "EPS", "JPEG2000", "PDF"]))
    path.write_bytes(content.getvalue())
    return NOT_TAKEN


def png_of_another_kind(s: Sent) -> str:
    path = s.png
    image = Image.open(path).copy()
    kind = s.pick(["RGB", "RGBA", "P", "1", "LA", "I;16"])
    (Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if kind == "I;16" else image.convert(kind)).save(path)
    return NOT_TAKEN


def png_of_few_bits(s: Sent) -> str:
    depth = s.pick([1, 2, 4])
    rows = b"".join(b"\0" + s.rng.bytes(16 * depth // 8) for _ in range(16))
    s.png.write_bytes(_png(16, 16, depth, 0, zlib.compress(rows)))
    return NOT_TAKEN


def png_size_lies(s: Sent) -> str:
    width, height = s.pick([(60000, 60000), (2**31 - 1, 2**31 - 1), (0, 16), (16, 0), (16, 2**31), (1 << 20, 16)])
    s.png.write_bytes(_png(width, height, 8, 0, zlib.compress(bytes(17 * 16))))
    return NOT_TAKEN


def png_bomb(s: Sent) -> str:
    """The right size, and 500 MB of zeros behind its pixels."""
    packer = zlib.compressobj(9)
    packed = packer.compress(bytes(17 * 16))
    for _ in range(60):
        packed += packer.compress(bytes(1 << 23))
    s.png.write_bytes(_png(16, 16, 8, 0, packed + packer.flush()))
    return ANY


def png_text_bomb(s: Sent) -> str:
    text = zlib.compress(bytes(200 << 20), 9)
    before = _chunk(s.pick([b"zTXt", b"iCCP"]), b"a\0\0" + text) if s.rng.integers(2) else (
        _chunk(b"iTXt", b"a\0\1\0\0\0" + text)
    )  # fmt: skip
    path = s.png
    pixels = np.asarray(Image.open(path))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    path.write_bytes(_png(16, 16, 8, 0, zlib.compress(rows), before))
    return EITHER


def png_with_many_chunks(s: Sent) -> str:
    path = s.png
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(Image.open(path)))
    texts = b"".join(_chunk(b"tEXt", f"key{i}\0value".encode()) for i in range(int(s.rng.integers(1, 20000))))
    path.write_bytes(_png(16, 16, 8, 0, zlib.compress(rows), texts))
    return EITHER


def png_method_unknown(s: Sent) -> str:
    path = s.png
    content = bytearray(path.read_bytes())
    content[int(s.rng.integers(26, 29))] = int(s.rng.integers(2, 256))
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return EITHER  # no such compression, filter or interlacing exists; the pixels may be told all the same


def png_of_another_size(s: Sent) -> str:
    Image.fromarray(np.full(s.pick([(16, 17), (8, 8), (32, 32), (1, 1), (24, 16)]), 90, np.uint8)).save(s.png)
    return NOT_TAKEN


def png_gone(s: Sent) -> str:
    s.png.unlink()
    return NOT_TAKEN


def png_replaced_by_something_else(s: Sent) -> str:
    s.replace_by_no_file(s.png)
    return NOT_TAKEN


def png_linked(s: Sent) -> str:
    path = s.png
    away = s.folder.parent / "away.png"
    path.rename(away)
    path.symlink_to(away)
    return SAME


def png_modality_empty(s: Sent) -> str:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(s.folder / s.pick(list(FOLDERS[:4])) / f"{s.number:04d}.png")
    return ASIDE


def png_all_without_brain(s: Sent) -> str:
    for path in (s.folder / "T1").iterdir():
        Image.fromarray(np.full((16, 16), 1, np.uint8)).save(path)
    return REFUSED


def png_annotation_of_no_class(s: Sent) -> str:
    Image.fromarray(np.full((16, 16), s.pick([77, 128, 255, 153, 5]), np.uint8)).save(
        s.folder / "SEG" / f"{s.number:04d}.png"
    )
    return ANY


def png_annotation_as_brats_values(s: Sent) -> str:
    for number in range(COUNT):
        values = np.array([0, 1, 2, 4], np.uint8)[s.base.labels[number]]
        Image.fromarray(values).save(s.folder / "SEG" / f"{number:04d}.png")
    return SAME


def png_companions(s: Sent) -> str:
    for name in (".DS_Store", "Thumbs.db", "._0001.png"):
        (s.folder / s.pick(list(FOLDERS)) / name).write_bytes(s.rng.bytes(50))
    return EITHER
