"""PaliGemma, which all models of the family begin with: images and text as one sequence.

After "PaliGemma" (arXiv 2407.07726).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.config import ModelConfig
from worker.models.gemma import Gemma
from worker.models.siglip import SigLip


class PaliGemma(nn.Module):
    """The vision tower, the text embedding and the wide Gemma."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = SigLip(config.vision, config.vlm.width)
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.vlm.width))
        self.vlm = Gemma(config.vlm)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the transformers; small projections are always float32."""
        return self.embedding.dtype

    def embed_prefix(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Tokens of present cameras, then of the prompt: (batch, n, vlm width).

        `images`: uint8 (batch, cameras, 224, 224, 3); `tokens`: int64 (batch, length).
        """
        seen = self.vision(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1, 2)
        return torch.cat([seen, self.embed_text(tokens)], dim=1)

    def embed_text(self, tokens: Tensor) -> Tensor:
        """`tokens`, int64 of any shape, as (..., vlm width)."""
        return F.embedding(tokens, self.embedding) * math.sqrt(self.config.vlm.width)
