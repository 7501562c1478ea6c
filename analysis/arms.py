"""What a row of a table is about: an arm, its order among the others, its words."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

ARMS = {
    "real": "Real only",
    "synthetic": "Synthetic only",
    "synthetic_last": "Synthetic only (last)",  # of the segmenter; no annotated real patient chose it
    "both": "Real + synthetic",
    "pretrain": "Synthetic, then real",
}
ORIGINALS = {  # the study's column
    "real": "yes",
    "synthetic": "no",
    "synthetic_last": "no, last snapshot",
    "both": "yes",
    "pretrain": "afterwards",
}
LABELS = {
    "none": "none",
    "progressive_gan": "Progressive GAN",
    "stylegan1": "StyleGAN 1",
    "stylegan2": "StyleGAN 2",
    "stylegan3": "StyleGAN 3",
    "diffusion": "Diffusion",
    "unet": "U-Net",
    "swin": "Swin",
}


def label(name: str) -> str:
    """A model's name as it is printed; a model from outside keeps its own."""
    return LABELS.get(name, name)


def in_order(values: Iterable[str], order: Iterable[str] = LABELS) -> list[str]:
    """Distinct values, those of `order` first and in its order, the others after them by name."""
    places = {value: place for place, value in enumerate(order)}
    return sorted(set(values), key=lambda value: (places.get(value, len(places)), value))


@dataclass(frozen=True)
class Arm:
    """How one segmenter was trained: on what, made by which generator ("none" for real-only), augmented or not."""

    generator: str
    arm: str  # one of ARMS
    segmenter: str
    augmentation: str  # "on" or "off"

    @property
    def reference(self) -> "Arm":
        """The real-only arm with the same segmenter and augmentation."""
        return replace(self, generator="none", arm="real")

    @property
    def setting(self) -> tuple[str, str, str]:
        """What generators that compete have in common: arm, segmenter, augmentation."""
        return self.arm, self.segmenter, self.augmentation

    def __str__(self) -> str:
        if self.arm == "real":
            return f"{ARMS['real']}, augmentation {self.augmentation}"
        return f"{label(self.generator)}, {ARMS[self.arm].lower()}, augmentation {self.augmentation}"


def arms_in_order(arms: Iterable[Arm]) -> list[Arm]:
    """Distinct arms by segmenter, generator, arm and augmentation: the order of every table."""
    arms = set(arms)
    segmenters = in_order(arm.segmenter for arm in arms)
    generators = in_order(arm.generator for arm in arms)
    places = [{value: place for place, value in enumerate(order)} for order in (segmenters, generators, ARMS)]

    def place(arm: Arm) -> tuple:
        values = (arm.segmenter, arm.generator, arm.arm)
        return (*(known[value] for known, value in zip(places, values, strict=True)), arm.augmentation)

    return sorted(arms, key=place)


ARM_COLUMNS = ["generator", "arm", "segmenter", "augmentation"]


def facts(arm: Arm) -> dict[str, str]:
    """The arm's columns."""
    return dict(zip(ARM_COLUMNS, astuple(arm), strict=True))
