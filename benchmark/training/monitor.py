"""What is measured of a generator while it trains: fidelity and memorization, side by side.

Fidelity is the distance to *held-out* subjects: a generator that copies would be closest to its training images.
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
    "copied_p_value",
    "off_code_share",
    "training_seconds",
)


class Monitor:
    """Measures samples of a generator against the slices that it is trained on (rows `trained`) and those of held-out
    subjects: of validation ones, by which a snapshot may be chosen, or of test ones.

    kernel_distance: in the extractor's features, from held-out slices; kernel_floor: that of training slices, as many.
    memorized_share, copied_share: at the level that 5 % of held-out slices exceed; copied_p_value: of the exact test
    whether the share is more than that.
    """

    def __init__(self, extractor: Segmenter, real: SliceSet, trained: np.ndarray, held_out: str = "validation") -> None:
        others = real.rows(held_out)
        self.extractor = extractor
        self.others = features(extractor, Rows(real.images, others))
        as_many = trained[np.linspace(0, len(trained) - 1, min(len(trained), len(others))).astype(int)]
        self.floor = kernel_distance(features(extractor, Rows(real.images, as_many)), self.others)
        patients = real.index["patient"].to_numpy(str)
        self.reference = Reference(
            Rows(real.images, trained),
            patients[trained],
            Rows(real.images, others),
            patients[others],
            device=extractor.device,
        )

    def __call__(self, images: np.ndarray) -> dict[str, float]:
        """Metrics of samples uint8 [N, 4, H, W]; a single training patient gives no copied_share and no p-value."""
        distance = kernel_distance(features(self.extractor, images), self.others)
        shares = {name: share for name, share in self.reference.shares(images).items() if share is not None}
        return {"kernel_distance": distance, "kernel_floor": self.floor, **shares}
