"""Samples annotated MR slices: python sample.py --count 16 --seed 1 --out samples

Needs what lies beside this file (config.json, the weights, the folder generators), torch, safetensors, pydantic, numpy,
pillow and, for diffusion, monai and einops. Image i depends on the seed and i alone. SEG: background 0, NCR 51, ED 102,
ET 204.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import generators

HERE, BATCH = Path(__file__).parent, 32
described = json.loads((HERE / "config.json").read_text())


def load(weights: str):
    model = generators.create(described["generator"], described["channels"], described["size"], **described["config"])
    model.load_weights(load_file(HERE / weights))
    return model


def classes(planes: torch.Tensor) -> torch.Tensor:
    """0 background, 1 NCR, 2 ED, 3 ET, from the annotation's planes in -1 … 1."""
    if described["annotation"] == "values":  # one plane of grey values
        grey = planes[:, 0].add(1).mul(127.5).round().clamp(0, 255).contiguous()
        return torch.bucketize(grey, torch.tensor([25.5, 76.5, 153.0]))
    if described["annotation"] == "onehot":  # a plane for each class
        largest, index = planes.max(1)
        return (index + 1) * (largest > 0)
    whole, core, enhancing = (planes > 0).unbind(1)  # a plane for each nested region
    return whole * torch.where(core, torch.where(enhancing, 3, 1), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("samples"))
    given = parser.parse_args()
    models, codes = [load(name) for name in described["weights"]], np.array([0, 51, 102, 204], np.uint8)
    for number, model in enumerate(models):  # image i is of generator i mod N
        mine = range(given.count)[number :: len(models)]
        for start in range(0, len(mine), BATCH):
            numbers = mine[start : start + BATCH]
            drawn = model.sample([given.seed * 10**9 + i for i in numbers])
            images = drawn[:, :4].add(1).mul(127.5).round().clamp(0, 255).byte().numpy()
            channels = np.concatenate([images, codes[classes(drawn[:, 4:]).numpy()][:, None]], axis=1)
            for i, slice_ in zip(numbers, channels, strict=True):
                for name, pixels in zip(described["names"], slice_, strict=True):
                    (given.out / name).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(given.out / name / f"{i:06d}.png")


if __name__ == "__main__":
    main()
