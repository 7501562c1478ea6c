"""The training subjects whose tumour lies in a slice, in its own place, whatever the slice is annotated as.

The search of lesions (`alignment`) trusts the slice's annotation to say where to look. Here the training slices' say
it: inside each of theirs, widened a little, the slice is compared with it as is and mirrored left–right. With w the
tumour's mask of n pixels, t the training slice's modality inside, centred and of unit norm, and x the slice's modality,

    r = |Σ t x| / √(Σ w x² − (Σ w x)² / n + n σ²),

Pearson's correlation but for σ, which keeps what is flat there from fitting by chance. Likeness is its mean over
modalities.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.alignment import best_rows
from analysis.neighbours import Rows, masked

SIDE = 32  # px, to which slices are averaged
LEAST = 0.008  # of the slice's area: smaller tumours fit by chance
SIGMA = 4  # of 255


class Tumours:
    """Training slices with a tumour, prepared for `nearest`. 20 kB of memory for each of four modalities.

    `known`: whether at least two subjects have one; else nothing can be searched.
    """

    def __init__(
        self,
        images: np.ndarray | Rows,
        codes: np.ndarray,
        labels: np.ndarray | Rows,
        device: torch.device,
        chunk: int = 256,
    ) -> None:
        """images uint8 [N, C, H, W]; codes [N]: subjects; labels uint8 [N, 1, H, W]."""
        self.device = device
        parts = [self._prepared(images[s : s + chunk], labels[s : s + chunk]) for s in range(0, len(images), chunk)]
        large, masks, tumours = (torch.cat(part) for part in zip(*parts, strict=True))
        self.rows = torch.nonzero(large)[:, 0]
        subjects, self.codes = (
            torch.from_numpy(np.asarray(codes, np.int64)).to(device)[self.rows].unique(return_inverse=True)
        )
        self.masks, self.size, self.tumours = masks, masks.sum(1), tumours.transpose(0, 1).contiguous()
        self.known = len(subjects) > 1

    def _prepared(self, images: np.ndarray | Rows, labels: np.ndarray | Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Which slices have a tumour [N]; of these the masks [K, P] and what is inside, standardised [K, C, P]."""
        values, brain = masked(np.asarray(images), self.device)
        annotated = (torch.from_numpy(np.array(labels)).to(self.device) > 0).float()
        large = annotated.mean((1, 2, 3)) >= LEAST
        values, brain, annotated = (
            F.adaptive_avg_pool2d(x[large], SIDE) for x in (values, brain[:, None].float(), annotated)
        )
        masks = F.max_pool2d((annotated >= 0.5).float(), 3, 1, 1) * (brain >= 0.5)
        masks, inside = masks.flatten(1), values.flatten(2)
        size = masks.sum(1)[:, None, None].clamp(min=1)
        inside = (inside - (inside * masks[:, None]).sum(2, keepdim=True) / size) * masks[:, None]
        return large, masks, inside / inside.norm(dim=2, keepdim=True).clamp(min=1)

    def nearest(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """Likeness [M, 2] to the nearest subject and to the nearest other, and the first one's row [M]."""
        values = F.adaptive_avg_pool2d(masked(images, self.device)[0], SIDE)
        likeness = torch.maximum(self._likeness(values), self._likeness(values.flip(-1)))
        rows = best_rows(likeness, self.codes, 2)
        return likeness.gather(1, rows), self.rows[rows[:, 0]]

    def _likeness(self, values: Tensor) -> Tensor:
        total = 0
        for modality, tumours in zip(values.flatten(2).unbind(1), self.tumours, strict=True):
            spread = modality.square() @ self.masks.T - (modality @ self.masks.T).square() / self.size.clamp(min=1)
            total = total + (modality @ tumours.T).abs() / (spread.clamp(min=0) + self.size * SIGMA**2 + 1e-6).sqrt()
        return total / values.shape[1]
