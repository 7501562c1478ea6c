"""A generator from another package: installed, it goes the whole way without a line of this project being touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SIXTH = '''
"""Draws from the Gaussian with the training images' mean and, along a few directions, their spread."""

import copy

import torch
from pydantic import Field
from torch import nn

from generators.base import Generator, GeneratorConfig, half_life_decay, latents, update_ema


class SixthConfig(GeneratorConfig):
    directions: int = Field(4, ge=1, description="directions of variation [count]")
    learning_rate: float = Field(0.05, gt=0, description="Adam's step size [1]")


class Sixth(Generator):
    Config = SixthConfig

    def __init__(self, channels, resolution, config):
        super().__init__(channels, resolution, config)
        network = nn.Linear(config.directions, channels * resolution**2)
        self.networks = {"generator": network}
        self.ema = {"generator": copy.deepcopy(network).requires_grad_(False)}
        self.optimizers = {"generator": torch.optim.Adam(network.parameters(), config.learning_rate)}

    def train_step(self, images, seen):
        network, flat = self.networks["generator"], images.flatten(1)
        codes = (flat - network.bias.detach()) @ torch.linalg.pinv(network.weight.detach()).T
        loss = (network(codes) - flat).square().mean()
        self.step("generator", loss)
        update_ema(self.ema["generator"], network, half_life_decay(len(images), 32))
        return {"loss": loss.detach()}

    @torch.no_grad()
    def sample(self, seeds):
        z = latents(seeds, self.config.directions).to(self.device)
        return self.ema["generator"](z).unflatten(1, (self.channels, self.resolution, self.resolution)).clamp(-1, 1)
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of a package with an entry point, laid out as pip installs it; on the path of the processes below."""
    site = tmp_path_factory.mktemp("site")
    (site / "sixth.py").write_text(SIXTH)
    facts = site / "sixth-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: sixth\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[standin.generators]\nsixth = sixth:Sixth\n")
    return site


def _call(installed, folder, stage, *arguments):
    command = [sys.executable, "-m", "benchmark", stage, "--preset", "smoke", "--work_dir", str(folder / "work")]
    environment = {**os.environ, "PYTHONPATH": str(installed), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    return subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_it_is_trained_sampled_segmented_with_and_reported(installed, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    arguments = ["--model", "sixth", "--sixth.directions", "3", "--train_on", "synthetic", "--ensemble", "2"]
    done = _call(installed, tmp_path, "benchmark", *arguments, "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    report = Path(json.loads(done.stdout)["path"])
    assert "sixth" in (report / "index.html").read_text()
    scores = (report / "tables" / "scores.csv").read_text()
    assert ",sixth,synthetic,unet," in scores
    trained = [json.loads(path.read_text()) for path in tmp_path.glob("work/train_generator/*/stage.json")]
    assert {manifest["tags"]["model"] for manifest in trained} == {"sixth"}
    assert len(trained) == 2  # the ensemble's members
    assert len({manifest["files"]["weights.safetensors"]["sha256"] for manifest in trained}) == 2


def test_its_keys_are_listed_and_checked_like_all_others(installed, tmp_path):
    listed = _call(installed, tmp_path, "train_generator", "--model", "sixth", "--help")
    assert "--sixth.directions" in listed.stdout
    refused = _call(installed, tmp_path, "train_generator", "--model", "sixth", "--sixth.direction", "3")
    assert refused.returncode == 1
    assert "did you mean 'directions'?" in refused.stderr
