"""Generators of annotated MR slices, by name. Importing this package imports no model and no torch."""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from generators.base import Generator

_BUILT_IN = {
    "progressive_gan": "generators.progressive_gan:ProgressiveGAN",
    "stylegan1": "generators.stylegan1:StyleGAN1",
    "stylegan2": "generators.stylegan2:StyleGAN2",
    "stylegan3": "generators.stylegan3:StyleGAN3",
    "diffusion": "generators.diffusion:Diffusion",
}


@cache  # reading what is installed takes 20 ms, and a large table asks thousands of times
def names() -> tuple[str, ...]:
    """Names of all registered generators: the built-in ones, then those of installed packages."""
    return (*_BUILT_IN, *(point.name for point in entry_points(group="standin.generators")))


def load(name: str) -> "type[Generator]":
    """The class behind a name. Raises ValueError that lists the known names for an unknown one."""
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name].split(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group="standin.generators", name=name):
        return point.load()
    raise ValueError(f"unknown generator '{name}'; known: {', '.join(names())}")


def create(name: str, channels: int, resolution: int, **config) -> "Generator":
    """A new generator of `channels` × `resolution` × `resolution` images, on the CPU, with freshly initialized weights.

    Weights are drawn from torch's global random state: call torch.manual_seed first for a reproducible start.
    `config` takes the keys of the class's Config; raises pydantic.ValidationError (a ValueError) for a bad one.
    """
    generator = load(name)
    return generator(channels, resolution, generator.Config(**config))
