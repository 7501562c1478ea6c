"""Preparing a cohort against only reading its files with nibabel, in as many processes: wall time and peak memory.

    python tests/bench/bench_prepare.py [--subjects 8] [--workers 2] [--image-size 256] [--repeats 3]

Subjects are 240×240×155 × 5 files, .nii.gz, int16: a smooth brain on a zero background. The target is a ratio of wall
times of at most 1.5, at most 1.5 GiB a worker, and no growth of memory over 20 subjects.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (240, 240, 155)


def write_subject(task: tuple[Path, int]) -> None:
    """A brain-like ellipsoid with smooth tissue and noise; about 2–3 MB a modality when compressed, as BraTS has."""
    folder, number = task
    name = f"BraTS20_Training_{number:03d}"
    (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(number)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)
    brain = (x / 0.58) ** 2 + (y / 0.72) ** 2 + (z / 0.87) ** 2 < 1
    tumour = (x - 0.2) ** 2 + (y - 0.1) ** 2 + (z - 0.1) ** 2
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    tissue = gaussian_filter(rng.standard_normal(SHAPE, np.float32), 4)
    tissue /= tissue.std()
    for modality in ("t1", "t1ce", "t2", "flair"):
        volume = (500 + 120 * tissue + 15 * rng.standard_normal(SHAPE, np.float32)) * brain
        path = folder / name / f"{name}_{modality}.nii.gz"
        nib.save(nib.Nifti1Image(volume.clip(0).astype(np.int16), affine), path)
    labels = np.select([tumour < 0.01, tumour < 0.02, tumour < 0.06], [1, 4, 2], 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, affine), folder / name / f"{name}_seg.nii.gz")


def read_raw(folder: Path) -> None:
    for path in folder.iterdir():
        np.asanyarray(nib.load(path).dataobj)


def only_read(folder: Path, workers: int) -> None:
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(read_raw, sorted(folder.iterdir()), chunksize=1)


def in_new_process(*arguments: str) -> dict:
    """Runs this file again, so that every measurement starts clean."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_gib(process_id: int | str) -> float:
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20


def watch_workers(peaks: list[float], stop: threading.Event) -> None:
    """Appends the highest peak of any worker so far, ten times a second."""
    while not stop.wait(0.1):
        for child in multiprocessing.active_children():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, TypeError):  # it has just ended
                peaks.append(max([peak_gib(child.pid), *peaks[-1:]]))


def measure(what: str, folder: Path, workers: int, image_size: int) -> None:
    """Prints one JSON object: seconds, processor seconds, and peak memory of the parent and of a worker."""
    sys.path.insert(0, str(ROOT))
    from benchmark.data import cohorts, preparation

    peaks, stop = [], threading.Event()
    watcher = threading.Thread(target=watch_workers, args=(peaks, stop))
    watcher.start()
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        start, start_cpu = time.perf_counter(), cpu_seconds()
        if what == "read":
            only_read(folder, workers)
        else:
            preparation.prepare(cohorts.find(folder), Path(out), image_size=image_size, workers=workers)
        result = {"seconds": time.perf_counter() - start, "cpu": cpu_seconds() - start_cpu}
    stop.set()
    watcher.join()
    result |= {"self": peak_gib("self"), "halfway": peaks[len(peaks) // 2], "worker": peaks[-1]}
    print(json.dumps(result))


def cpu_seconds() -> float:
    """Of this process and of its children that have ended; less shaken than wall time by what else is running."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the subjects lie or are to be written; else a temporary one")
    parser.add_argument("--measure", choices=("read", "prepare"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.folder, options.workers, options.image_size)
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary, "cohort")
        if not folder.exists():
            with multiprocessing.Pool(options.workers) as pool:
                pool.map(write_subject, [(folder, number) for number in range(options.subjects)])
        sizes = [path.stat().st_size / 2**20 for path in folder.glob("*/*_t1.nii.gz")]
        print(f"{len(sizes)} subjects, {statistics.mean(sizes):.1f} MiB a T1 file, {options.workers} processes")
        common = ("--folder", str(folder), "--workers", str(options.workers), "--image-size", str(options.image_size))
        # Taking turns spreads the machine's ups and downs over both.
        runs = {"read": [], "prepare": []}
        for _ in range(options.repeats):
            for what, results in runs.items():
                results.append(in_new_process("--measure", what, *common))
        median = {
            (what, key): statistics.median(run[key] for run in results)
            for what, results in runs.items()
            for key in ("seconds", "cpu")
        }
        for what, results in runs.items():
            halfway, worker, parent = (max(run[key] for run in results) for key in ("halfway", "worker", "self"))
            print(
                f"{what}: median {median[what, 'seconds']:.2f} s of {[round(run['seconds'], 2) for run in results]}, "
                f"{median[what, 'cpu']:.2f} s of processor time; peak "
                f"{worker:.2f} GiB a worker ({halfway:.2f} by half time), {parent:.2f} GiB the parent"
            )
        wall, cpu = (median["prepare", key] / median["read", key] for key in ("seconds", "cpu"))
        print(f"prepare / read = {wall:.2f} in wall time (target ≤ 1.5), {cpu:.2f} in processor time")


if __name__ == "__main__":
    main()
