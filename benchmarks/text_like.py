"""Vectors like those of a CLIP model, drawn: pictures, and texts that lie elsewhere.

What a picture shows is a point of 48 dimensions, near one of 4,000 subjects of very different frequency. Its
vector is that point, bent (tanh) and turned into 512 dimensions, plus what all pictures have in common (a cone)
and a fifth of noise. A text names a subject and a shade of it: the same turn, blurred by another one, and the cone
of texts. So texts have cosines of about 0.2 to 0.35 to their nearest pictures, which have 0.6 to 0.9 among each
other.
"""

from __future__ import annotations

import numpy as np

LATENT, SUBJECTS = 48, 4000


class TextLike:
    """Draws the same pictures and texts for the same dim."""

    def __init__(self, dim: int = 512, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, dim])
        self.dim = dim
        self._subjects = rng.standard_normal((SUBJECTS, LATENT)).astype(np.float32)
        often = 1 / np.arange(1, SUBJECTS + 1) ** 0.8
        self._often = often / often.sum()
        self._turn = rng.standard_normal((LATENT, dim)).astype(np.float32) / np.float32(np.sqrt(dim))
        self._blur = rng.standard_normal((LATENT, dim)).astype(np.float32) / np.float32(np.sqrt(dim))
        self._cones = rng.standard_normal((2, dim)).astype(np.float32)
        self._cones /= np.linalg.norm(self._cones, axis=1, keepdims=True)

    def pictures(self, count: int, seed: int) -> np.ndarray:
        """float32 (count, dim), of norm 1."""
        rng = np.random.default_rng([1, seed])
        shown = self._subjects[rng.choice(SUBJECTS, count, p=self._often)]
        points = np.tanh(0.7 * shown + 0.6 * rng.standard_normal(shown.shape, dtype=np.float32))
        return self._placed(points @ self._turn, 0, 0.2, rng)

    def texts(self, count: int, seed: int = 0) -> np.ndarray:
        """float32 (count, dim), of norm 1."""
        rng = np.random.default_rng([2, seed])
        named = self._subjects[rng.choice(SUBJECTS, count, p=self._often)]
        points = np.tanh(0.7 * named + 0.3 * rng.standard_normal(named.shape, dtype=np.float32))
        return self._placed(points @ (0.6 * self._turn + 0.8 * self._blur), 1, 0.5, rng)

    def _placed(self, meant: np.ndarray, cone: int, noise: float, rng: np.random.Generator) -> np.ndarray:
        meant = meant / np.linalg.norm(meant, axis=1, keepdims=True)
        grain = rng.standard_normal(meant.shape, dtype=np.float32) / np.float32(np.sqrt(self.dim))
        whole = 0.7 * meant + 0.6 * self._cones[cone] + np.float32(noise) * grain
        return whole / np.linalg.norm(whole, axis=1, keepdims=True)
