"""Time, size and memory of writing a package: python tests/bench/bench_release.py [SLICES [PIXELS [FORMAT …]]]

Slices are heads of smooth tissue with noise on black; how far a PNG packs depends on that noise. Memory is what the
process has of its own (RssAnon), without pages of mapped files, which the kernel takes back whenever it likes. The last
column is what 100,000 slices would take at the same rate.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmark.cores import cores
from benchmark.data.foreign.package import CHECKSUMS, Declaration
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.release.encoding import write_slices
from benchmark.release.writing import PackageFiles, write_zip

FULL = 100_000


def heads(count: int, size: int, folder: Path) -> SliceSet:
    """So many slices: tissue, noise of 4 of 255, and a tumour."""
    rng = np.random.default_rng(0)
    y, x = np.indices((size, size)) / size - 0.5
    brain, tumour = (x / 0.36) ** 2 + (y / 0.44) ** 2 < 1, (x - 0.1) ** 2 + y**2 < 0.01
    tissue = gaussian_filter(rng.normal(size=(64, size, size)), (0, size / 40, size / 40))
    tissue = 120 + 40 * tissue / tissue.std()
    meta = {"kind": "synthetic", "cohort": "bench", "simulated": True, "spacing": {"bench": [1.0, 1.0, 1.0]}}
    with SliceWriter(folder, size, meta) as writer:
        for start in range(0, count, 64):
            batch = min(64, count - start)
            images = tissue[rng.integers(0, 64, (batch, 4))] + rng.normal(0, 4, (batch, 4, size, size))
            images = (images.clip(1, 255) * brain).astype(np.uint8)
            labels = np.broadcast_to((tumour * 2).astype(np.uint8), (batch, size, size))
            writer.append(images, labels, subject="bench", z=-1, split="synthetic")
    return SliceSet.open(folder)


class Memory(threading.Thread):
    """Watches the most memory of its own that this process has [MiB]."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self._ended = 0, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, own_memory())

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self.join()


def own_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon"))


def measure(slices: SliceSet, form: str, folder: Path) -> None:
    declared = Declaration(form, slices.meta["image_size"], len(slices), [1.0, 1.0, 1.0], True)
    before, started = own_memory(), time.monotonic()
    with Memory() as memory:
        with PackageFiles(folder / form) as files:
            write_slices(files, slices, declared, "bench", cores(), lambda count: None)
        written = time.monotonic()
        write_zip(folder / form, folder / f"{form}.zip", lambda count: None)
    zipped = time.monotonic()
    packed = (folder / f"{form}.zip").stat().st_size / 1e9
    loose = sum(path.stat().st_size for path in (folder / form).rglob("*")) / 1e9
    count, scale = sum(1 for _ in (folder / form / CHECKSUMS).open()), FULL / len(slices)
    rate = len(slices) / (written - started)
    print(
        f"{form:<8} {len(slices):>7,} slices, {count:>8,} files  write {written - started:7.1f} s ({rate:,.0f}/s)  "
        f"zip {zipped - written:6.1f} s  {loose:6.2f} + {packed:6.2f} GB  memory +{memory.most - before} MiB | "
        f"{FULL:,}: {(zipped - started) * scale / 60:.0f} min, {loose * scale:.1f} + {packed * scale:.1f} GB",
        flush=True,
    )


if __name__ == "__main__":
    count, size = (int(given) for given in (sys.argv[1:3] + ["500", "256"][len(sys.argv[1:3]) :]))
    with tempfile.TemporaryDirectory() as scratch:
        made = heads(count, size, Path(scratch) / "set")
        for form in sys.argv[3:] or ("png", "nifti", "arrays"):
            measure(made, form, Path(scratch))
