"""A trained generator, or several of one kind → a synthetic SliceSet."""

import copy
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from benchmark.config import Config
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.progress import progress_bar
from benchmark.report.sheets import save_sheet
from benchmark.stages.prepare import cohort_name
from benchmark.stages.train_generator import SAMPLE_BATCH, create, draw
from benchmark.tracking.runs import StageRun
from benchmark.training.devices import pick_devices
from generators.base import Generator

SCHEMA = 2
PREVIEW = 16  # slices that travel to the tracking server


def settings(config: Config) -> dict:
    return config.sample.model_dump(mode="json")


def needs(config: Config) -> dict:
    first = config.train_generator.seed
    seeds = range(first, first + config.sample.ensemble)
    trainings = [("train_generator", config.replace({"train_generator.seed": seed})) for seed in seeds]
    return {"prepare": ("prepare", config), **{f"train_generator_{i}": need for i, need in enumerate(trainings)}}


def tags(config: Config) -> dict:
    return {"model": config.train_generator.model, "cohort": cohort_name(config), "seed": config.sample.seed}


def run(config: Config, inputs: dict, folder: Path, tracked: StageRun) -> dict:
    own, name = config.sample, config.train_generator.model
    real = SliceSet.open(inputs["prepare"].path)
    devices = pick_devices(config.common.device)
    members = []
    for i in range(own.ensemble):
        member = create(config, real)
        member.load_weights(load_file(inputs[f"train_generator_{i}"].path / "weights.safetensors"))
        members.append([copy.deepcopy(member).to(device) for device in devices])

    spacing = np.median(list(real.meta["spacing"].values()), axis=0).tolist()
    meta = {
        "kind": "synthetic",
        "cohort": real.meta["cohort"],
        "simulated": real.meta["simulated"],
        "generator": name,
        "ensemble": own.ensemble,
        "spacing": {name: spacing},
    }
    (folder / "meta.json").unlink(missing_ok=True)  # complete, but its run was killed before it could say so
    with (
        SliceWriter(folder, real.meta["image_size"], meta, resume=True) as writer,
        progress_bar(own.samples, f"sample {name}", "img", writer.count) as bar,
    ):
        for seeds, images, labels, off_code in _batches(members, writer.count, own.samples, own.seed, len(devices)):
            writer.append(images, labels, subject=name, seed=seeds, z=-1, split="synthetic", off_code=off_code.tolist())
            bar.update(len(seeds))

    slices = SliceSet.open(folder)
    sheet = save_sheet(slices.images[:8], slices.labels[:8], folder / "samples.png")
    preview = folder / "preview.npz"
    np.savez_compressed(preview, images=slices.images[:PREVIEW], labels=slices.labels[:PREVIEW])
    for path in (sheet, preview):
        tracked.log_artifact(path, "samples")
    return {
        "samples": len(slices),
        "off_code_share": float(slices.index["off_code"].mean()),
        "tumour_share": float((slices.index["tumour_pixels"] > 0).mean()),
    }


def _batches(
    members: list[list[Generator]], start: int, stop: int, seed: int, devices: int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray, np.ndarray]]:
    """(seeds, images, labels, off_code) of samples start … stop, in order, made side by side on all devices.

    members: of each generator, a copy on every device. Sample i is of generator i mod N, from seed and i alone. Batches
    are the same wherever the first one starts, if it starts where a batch does.
    """
    size = SAMPLE_BATCH * len(members)

    def make(first: int, device: int) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
        numbers = range(first, min(first + size, stop))
        seeds = [seed * 10**9 + number for number in numbers]
        parts = [draw(member[device], seeds[i :: len(members)]) for i, member in enumerate(members) if i < len(seeds)]
        whole = []
        for arrays in zip(*parts, strict=True):
            mixed = np.empty((len(seeds), *arrays[0].shape[1:]), arrays[0].dtype)
            for i, array in enumerate(arrays):
                mixed[i :: len(members)] = array
            whole.append(mixed)
        return (seeds, *whole)

    with ThreadPoolExecutor(devices) as pool:
        running: deque[Future] = deque()
        for number, first in enumerate(range(start, stop, size)):
            if len(running) == devices:
                yield running.popleft().result()
            running.append(pool.submit(make, first, number % devices))
        while running:
            yield running.popleft().result()
