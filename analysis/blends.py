"""The training subjects whose signal shines through a blend: a slice seen by what it has beyond what brains share.

What brains have in common outweighs what one of them adds to a mean of several. So slices are whitened: with mean m and
covariance U diag(e) Uᵀ of the training slices as vectors v, w = U (diag(e) + λ ē)^−½ Uᵀ (v − m), ē being the mean of e
(regularised Mahalanobis whitening, "ZCA"; Kessy et al., The American Statistician 72:309, 2018, section 2.2). Likeness
is the cosine of two such vectors, the larger of as is and mirrored left–right.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.alignment import best_rows
from analysis.mixtures import vectors
from analysis.neighbours import Rows

RIDGE = 0.2  # λ: directions in which training slices hardly vary count for little


class Blends:
    """Training slices, prepared for `nearest`. 4 kB of memory a slice."""

    def __init__(self, images: np.ndarray | Rows, codes: np.ndarray, device: torch.device, chunk: int = 256) -> None:
        """images uint8 [N, C, H, W]; codes [N]: subjects 0 … S − 1."""
        self.device, self.codes = device, torch.from_numpy(np.asarray(codes, np.int64)).to(device)
        slices = torch.cat([vectors(images[s : s + chunk], device) for s in range(0, len(images), chunk)])
        self.mean = slices.mean(0)
        centred = (slices - self.mean).double()
        values, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
        values = values.clamp(min=0)
        weights = (values + RIDGE * values.mean()).clamp(min=1e-6).rsqrt()
        self.whitening = (directions * weights @ directions.T).float()
        self.references = self._whitened(slices)

    def nearest(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """Likeness [M, 2] to the nearest subject and to the nearest other, and the first one's row [M]."""
        ways = (images, np.ascontiguousarray(images[..., ::-1]))
        plain, mirrored = (self._whitened(vectors(way, self.device)) @ self.references.T for way in ways)
        likeness = torch.maximum(plain, mirrored)
        rows = best_rows(likeness, self.codes, 2)
        return likeness.gather(1, rows), rows[:, 0]

    def _whitened(self, slices: Tensor) -> Tensor:
        return F.normalize((slices - self.mean) @ self.whitening)
