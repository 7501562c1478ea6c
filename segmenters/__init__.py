"""Segmenters of MR slices, by name. Importing this package imports no model and no torch."""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segmenters.base import Segmenter

_BUILT_IN = {
    "unet": "segmenters.unet:UNet",
    "swin": "segmenters.swin:Swin",
}


@cache  # reading what is installed takes 20 ms, and a large table asks thousands of times
def names() -> tuple[str, ...]:
    """Names of all registered segmenters: the built-in ones, then those of installed packages."""
    return (*_BUILT_IN, *(point.name for point in entry_points(group="standin.segmenters")))


def load(name: str) -> "type[Segmenter]":
    """The class behind a name. Raises ValueError that lists the known names for an unknown one."""
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name].split(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group="standin.segmenters", name=name):
        return point.load()
    raise ValueError(f"unknown segmenter '{name}'; known: {', '.join(names())}")


def create(name: str, channels: int, classes: int, resolution: int, **config) -> "Segmenter":
    """A new segmenter of `channels` × `resolution` × `resolution` images into `classes` classes, on the CPU.

    Weights are drawn from torch's global random state: call torch.manual_seed first for a reproducible start.
    `config` takes the keys of the class's Config; raises pydantic.ValidationError (a ValueError) for a bad one.
    """
    segmenter = load(name)
    return segmenter(channels, classes, resolution, segmenter.Config(**config))
