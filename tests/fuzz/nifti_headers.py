"""Header fields of a NIfTI file, set wrong or set otherwise; each mutator says what must become of the subject."""

import math
import struct

import nibabel as nib
import numpy as np

from tests.fuzz.subjects import AFFINE, ANY, ASIDE, EITHER, SAME, SHAPE, Victim, image_of


def bits_flipped_in_header(v: Victim) -> str:
    content = v.content()
    for _ in range(v.rng.integers(1, 5)):
        content[v.rng.integers(352)] ^= 1 << int(v.rng.integers(8))
    v.write(content)
    return ANY


def bytes_drawn_in_header(v: Victim) -> str:
    content = v.content()
    start = int(v.rng.integers(340))
    count = int(v.rng.integers(1, 13))
    content[start : start + count] = v.rng.bytes(count)
    v.write(content)
    return ANY


def header_drawn(v: Victim) -> str:
    content = v.content()
    content[4:344] = v.rng.bytes(340)
    v.write(content)
    return ASIDE


def type_without_grey_values(v: Victim) -> str:
    code, bits = [(0, 0), (1, 1), (32, 64), (128, 24), (1536, 128), (1792, 128), (2048, 256), (2304, 32), (255, 0)][
        v.rng.integers(9)
    ]
    content = v.content()
    struct.pack_into("<hh", content, 70, code, bits)
    v.write(content + bytes(16 * math.prod(SHAPE)))  # enough bytes for any of them: the length does not tell
    return ASIDE


def type_unknown(v: Victim) -> str:
    v.set(70, "h", int(v.rng.choice([3, 5, 7, 100, 9999, -4, 32767])))
    return ASIDE


def type_larger(v: Victim) -> str:
    v.set(70, "hh", *[(8, 32), (16, 32), (64, 64), (1024, 64)][v.rng.integers(4)])
    return ASIDE


def header_alone_swapped(v: Victim) -> str:
    content = v.content()
    swapped = nib.Nifti1Header(bytes(content[:348])).as_byteswapped(">")
    content[:348] = swapped.binaryblock
    v.write(content)
    return SAME if v.is_annotation else ANY  # the annotation has one byte a voxel; the others hold other numbers now


def dimensions_wrong(v: Victim) -> str:
    place = int(v.rng.integers(1, 4))
    v.set(40 + 2 * place, "h", int(v.rng.choice([0, -1, -32768, 32767, 1, 2, 1000])))
    return ASIDE


def all_dimensions_huge(v: Victim) -> str:
    v.set(40, "8h", 7, *[32767] * 7)
    return ASIDE


def number_of_dimensions_wrong(v: Victim) -> str:
    v.set(40, "h", int(v.rng.choice([0, 1, 2, 8, 9, -1, 255, 32767])))
    return ASIDE


def trailing_dimensions_of_one(v: Victim) -> str:
    content = v.content()
    count = int(v.rng.integers(4, 8)) if v.layout != "msd" or v.is_annotation else int(v.rng.integers(5, 8))
    dims = list(struct.unpack_from("<8h", content, 40))
    held = dims[0]
    dims[0] = count
    dims[held + 1 : count + 1] = [1] * (count - held)
    struct.pack_into("<8h", content, 40, *dims)
    v.write(content)
    return EITHER


def axes_exchanged(v: Victim) -> str:
    content = v.content()
    dims = list(struct.unpack_from("<8h", content, 40))
    first, second = v.rng.choice([1, 2, 3], 2, replace=False)
    dims[first], dims[second] = dims[second], dims[first]
    struct.pack_into("<8h", content, 40, *dims)
    v.write(content)
    return ASIDE


def slope_without_effect(v: Victim) -> str:
    v.set(112, "ff", float(v.rng.choice([0, np.nan])), float(v.rng.choice([0, np.nan])))
    return SAME


def slope_infinite(v: Victim) -> str:
    v.set(112, "ff", float(v.rng.choice([np.inf, -np.inf])), 0)
    return EITHER


def intercept_not_finite(v: Victim) -> str:
    v.set(112, "ff", 1, float(v.rng.choice([np.inf, -np.inf, np.nan])))
    return EITHER


def slope_of_an_image(v: Victim) -> str:
    v.set(112, "ff", float(v.rng.choice([2, 0.5, 1000])), 0)
    return ASIDE if v.is_annotation else SAME  # a modality is divided by its own maximum; a label is not


def slope_tiny_or_huge(v: Victim) -> str:
    v.set(112, "ff", float(v.rng.choice([1e-38, 1e-45, 3e38])), 0)
    return ASIDE if v.is_annotation else EITHER


def slope_negative(v: Victim) -> str:
    v.set(112, "ff", -1, 0)
    return ASIDE


def intercept_added(v: Victim) -> str:
    v.set(112, "ff", 1, float(v.rng.choice([-1e6, -50.0, 7.0, 1e6])))
    return ASIDE if v.is_annotation else ANY


def no_orientation(v: Victim) -> str:
    v.set(252, "hh", 0, 0)
    return ASIDE  # the others of the subject say where they lie, and this one lies elsewhere


def only_one_orientation(v: Victim) -> str:
    v.set(252, "hh", *[(1, 0), (0, 1), (0, 2), (2, 0), (4, 0), (0, 4)][v.rng.integers(6)])
    return SAME


def orientation_code_unknown(v: Victim) -> str:
    v.set(252, "hh", int(v.rng.choice([6, -1, 255, 32767])), int(v.rng.choice([1, 7, -5, 1000])))
    return EITHER


def qform_mirrored(v: Victim) -> str:
    image = image_of(v.voxels())
    image.set_qform(np.diag([-1.0, 1, 1, 1]) @ AFFINE, 1)
    v.write(image.to_bytes())
    return ASIDE


def qform_moved(v: Victim) -> str:
    v.set(268 + 4 * int(v.rng.integers(3)), "f", float(v.rng.choice([500.0, -77.0])))
    return ASIDE


def sform_not_finite(v: Victim) -> str:
    v.set(280 + 4 * int(v.rng.integers(12)), "f", float(v.rng.choice([np.nan, np.inf, -np.inf, 1e30])))
    return ASIDE


def sform_singular(v: Victim) -> str:
    v.set(280 + 16 * int(v.rng.integers(3)), "4f", 0, 0, 0, 0)
    return ASIDE


def sform_moved(v: Victim) -> str:
    place = 292 + 16 * int(v.rng.integers(3))
    (before,) = struct.unpack_from("<f", v.content(), place)
    v.set(place, "f", before + float(v.rng.choice([-30.0, 4.0, 100.0])))
    return ASIDE


def origin_rounded(v: Victim) -> str:
    content = v.content()
    for place, other in ((292, 268), (308, 272), (324, 276)):
        step = float(v.rng.uniform(-0.02, 0.02))
        for offset in (place, other):
            (before,) = struct.unpack_from("<f", content, offset)
            struct.pack_into("<f", content, offset, before + step)
    v.write(content)
    return SAME


def quaternion_drawn(v: Victim) -> str:
    v.set(256, "3f", *(float(value) for value in v.rng.choice([np.nan, np.inf, 2.0, -5.0, 1e30, 0.3], 3)))
    return EITHER


def voxel_size_wrong(v: Victim) -> str:
    v.set(76 + 4 * int(v.rng.integers(4)), "f", float(v.rng.choice([0, -1, np.nan, np.inf, 1e30, 1e-30])))
    return EITHER


def units_other(v: Victim) -> str:
    v.set(123, "B", int(v.rng.choice([0, 1, 3, 255, 7])))
    return EITHER  # metres and micrometres beside millimetres of the others may be refused


def voxel_offset_wrong(v: Victim) -> str:
    v.set(108, "f", float(v.rng.choice([np.nan, np.inf, -np.inf, -352, 1e30, 360, 400, 1e9, 2**31, 3e9])))
    return ASIDE


def voxel_offset_zero(v: Victim) -> str:
    v.set(108, "f", 0)
    return EITHER


def voxel_offset_in_header(v: Victim) -> str:
    v.set(108, "f", float(v.rng.choice([1, 16, 100, 340, 348])))
    return ASIDE


def extension(v: Victim) -> str:
    content = v.content()
    text = bytes(v.rng.integers(32, 127, 8 + 16 * int(v.rng.integers(1, 60)), dtype=np.uint8))
    added = struct.pack("<ii", len(text) + 8, int(v.rng.choice([0, 6, 2, 44]))) + text
    struct.pack_into("<f", content, 108, 352 + len(added))
    v.write(content[:348] + b"\1\0\0\0" + added + content[352:])
    return SAME


def extension_lying(v: Victim) -> str:
    content = v.content()
    size = int(v.rng.choice([0, -16, 7, 8, 2**31 - 1, -(2**31), 10**6]))
    struct.pack_into("<f", content, 108, 384)
    v.write(content[:348] + b"\1\0\0\0" + struct.pack("<ii", size, 6) + bytes(24) + content[352:])
    return EITHER


def extension_flag_alone(v: Victim) -> str:
    content = v.content()
    content[348:352] = b"\1\2\3\4"
    v.write(content)
    return EITHER


def magic_wrong(v: Victim) -> str:
    content = v.content()
    magics = [b"ni1\0", b"n+2\0", b"\0\0\0\0", b"abcd", b"n+1 ", b"\xff\xff\xff\xff"]
    content[344:348] = magics[v.rng.integers(len(magics))]
    v.write(content)
    return EITHER


def header_size_wrong(v: Victim) -> str:
    v.set(0, "i", int(v.rng.choice([0, -1, 347, 540, 1543569408, 2**31 - 1])))
    return EITHER
