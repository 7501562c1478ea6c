"""Slices as files of a package: 8-bit grey PNG or 2-D NIfTI, as the study shares them, or the arrays of a SliceSet.

The same slice makes the same bytes, and nothing but pixels, and a NIfTI's voxel size, stands in a file.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterator

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmark.data.annotation import CODES
from benchmark.data.foreign.facts import parallel
from benchmark.data.foreign.package import CHANNELS, Declaration, slice_file
from benchmark.data.slices import SliceSet
from benchmark.release.writing import Chunks, PackageFiles

BATCH = 64  # slices in memory at once
CHUNK = 1 << 24  # bytes of an array in memory at once


def write_slices(
    files: PackageFiles,
    slices: SliceSet,
    declared: Declaration,
    name: str,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Adds all slices of a set, a batch at a time; batches that a killed release left whole stay.

    name: of the set, which every slice has for its subject where the format has a place for one.
    """
    if declared.format == "arrays":
        _write_arrays(files, slices, name, progress)
        return
    encode = {"png": png, "nifti": lambda pixels: nifti(pixels, declared.spacing)}[declared.format]
    codes = np.array(CODES, np.uint8)
    for start in range(0, len(slices), BATCH):
        rows = range(start, min(start + BATCH, len(slices)))
        names = [slice_file(channel, row, declared.format) for row in rows for channel in CHANNELS]

        def contents(first: int = start, count: int = len(rows)) -> Iterator[bytes]:
            images, labels = slices.images[first : first + count], slices.labels[first : first + count]
            channels = np.concatenate([images, codes[labels][:, None]], axis=1)
            encoded = parallel(lambda i: [encode(pixels) for pixels in channels[i]], count, workers)
            return (content for slice_ in encoded for content in slice_)

        files.add_batch(names, contents)
        progress(len(rows))


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] as an 8-bit grey PNG: header, pixels, end, and no other chunk."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def nifti(pixels: np.ndarray, spacing: list[float]) -> bytes:
    """uint8 [H, W], rows anterior to posterior, columns the patient's right to left, as a packed NIfTI of one axial
    slice. spacing: mm along z, y, x."""
    z, y, x = spacing
    image = nib.Nifti1Image(pixels.T[:, :, None], np.diag([-x, -y, z, 1.0]))  # NIfTI counts towards right and front
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 6, mtime=0)


def _write_arrays(files: PackageFiles, slices: SliceSet, name: str, progress: Callable[[int], None]) -> None:
    """images.npy, labels.npy, index.parquet, meta.json: a SliceSet, without the numbers its slices were drawn from."""
    for array in ("images", "labels"):
        path = slices.folder / f"{array}.npy"

        def chunks(path=path) -> Chunks:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk

        files.add(f"{array}.npy", chunks)
    count = len(slices)
    index = pd.DataFrame({"subject": [name] * count, "seed": -1, "z": -1, "split": "synthetic"})
    index["tumour_pixels"] = slices.index["tumour_pixels"].to_numpy()
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(index, preserve_index=False), buffer)
    files.add("index.parquet", lambda: [buffer.getvalue()])
    spacing = next(iter(slices.meta["spacing"].values()))
    meta = {"kind": "synthetic", "cohort": name, "simulated": slices.meta["simulated"], "generator": name}
    meta |= {"spacing": {name: spacing}, "image_size": slices.meta["image_size"]}
    files.add("meta.json", lambda: [(json.dumps(meta, indent=1) + "\n").encode()])
    progress(count)
