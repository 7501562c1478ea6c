"""What is measured of a generator while it trains: fidelity and memorization, side by side.

Fidelity is the distance to *validation* subjects: a generator that copies would be closest to its training images.
"""

import numpy as np

from analysis.fidelity import kernel_distance
from analysis.memorization import Reference
from analysis.neighbours import Rows
from benchmark.data.slices import SliceSet
from benchmark.training.models import features
from segmenters.base import Segmenter

COLUMNS = (
    "judge_dice",
    "judge_dice_real",
    "kernel_distance",
    "kernel_floor",
    "memorized_share",
    "copied_share",
    "off_code_share",
    "training_seconds",
)


class Monitor:
    """Measures samples of a generator against real slices of training and of validation subjects.

    kernel_distance: in the extractor's features, from validation slices; kernel_floor: that of training slices, as
    many. memorized_share, copied_share: at the level that 5 % of validation slices exceed.
    """

    def __init__(self, extractor: Segmenter, real: SliceSet) -> None:
        trained, validation = real.rows("train"), real.rows("validation")
        self.extractor = extractor
        self.validation = features(extractor, Rows(real.images, validation))
        as_many = trained[np.linspace(0, len(trained) - 1, min(len(trained), len(validation))).astype(int)]
        self.floor = kernel_distance(features(extractor, Rows(real.images, as_many)), self.validation)
        patients = real.index["patient"].to_numpy(str)
        self.reference = Reference(
            Rows(real.images, trained),
            patients[trained],
            Rows(real.images, validation),
            patients[validation],
            device=extractor.device,
        )

    def __call__(self, images: np.ndarray) -> dict[str, float]:
        """Metrics of samples uint8 [N, 4, H, W]; a single training patient gives no copied_share."""
        distance = kernel_distance(features(self.extractor, images), self.validation)
        shares = {name: share for name, share in self.reference.shares(images).items() if share is not None}
        return {"kernel_distance": distance, "kernel_floor": self.floor, **shares}
