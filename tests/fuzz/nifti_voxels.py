"""What a NIfTI file holds, replaced; each mutator says what must become of the subject."""

import nibabel as nib
import numpy as np

from tests.fuzz.subjects import AFFINE, ASIDE, SAME, Victim, image_of


def stored_as_another_type(v: Victim) -> str:
    types = [np.float32, np.float64, np.int32, np.uint16, np.uint32, np.int64, np.uint64]
    v.write(image_of(v.voxels().astype(types[v.rng.integers(len(types))])).to_bytes())
    return SAME


def big_endian(v: Victim) -> str:
    image = image_of(v.voxels())
    header = image.header.as_byteswapped(">")
    v.write(nib.Nifti1Image(v.voxels(), None, header).to_bytes())
    return SAME


def nifti_2(v: Victim) -> str:
    image = nib.Nifti2Image(v.voxels(), AFFINE)
    image.set_sform(AFFINE, 1)
    v.write(image.to_bytes())
    return SAME


def one_volume_more(v: Victim) -> str:
    v.write(image_of(np.stack([v.voxels()] * 2, -1)).to_bytes())
    return ASIDE


def other_channels(v: Victim) -> str:
    array = v.voxels()
    if array.ndim == 3:
        v.write(image_of(array[:, :, :-1]).to_bytes())
    else:
        v.write(image_of(array[..., : int(v.rng.integers(1, 4))]).to_bytes())
    return ASIDE


def not_a_number_voxels(v: Victim) -> str:
    array = v.voxels().astype(np.float32)
    array.flat[v.rng.integers(0, array.size, 3)] = [np.nan, np.inf, -np.inf][v.rng.integers(3)]
    v.write(image_of(array).to_bytes())
    return ASIDE


def nothing_in_it(v: Victim) -> str:
    if v.is_annotation:
        v.write(image_of(np.full_like(v.voxels(), 9)).to_bytes())
    else:
        v.write(image_of(np.zeros_like(v.voxels())).to_bytes())
    return ASIDE


def all_below_zero(v: Victim) -> str:
    v.write(image_of(-1 - v.voxels().astype(np.int16)).to_bytes())
    return ASIDE


def centred_on_zero(v: Victim) -> str:
    array = v.voxels().astype(np.float32)
    spread = (array - array.mean()) / array.std() if v.rng.integers(2) else array / array.max() * 2 - 1
    v.write(image_of(spread.astype(np.float32)).to_bytes())
    return ASIDE


def annotation_with_an_unknown_value(v: Victim) -> str:
    v.path = v.annotation
    array = v.voxels().astype(np.float32)
    array[13, 12, 5] = float(v.rng.choice([5, 7, 255, 256, 1000, -1, 2.5, 3.4e38]))
    v.write(image_of(array).to_bytes())
    return ASIDE


def annotation_nearly_whole(v: Victim) -> str:
    v.path = v.annotation
    array = v.voxels().astype(np.float64)
    v.write(image_of(array + v.rng.uniform(-1e-7, 1e-7, array.shape) * (array > 0)).to_bytes())
    return SAME


def annotation_of_another_grid(v: Victim) -> str:
    v.path = v.annotation
    v.write(image_of(v.voxels()[:, :-1]).to_bytes())
    return ASIDE
