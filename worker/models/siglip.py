"""SigLIP, the vision tower: an image becomes tokens as wide as the prefix.

After "Sigmoid Loss for Language Image Pre-Training" (arXiv 2303.15343) as PaliGemma uses it
(arXiv 2407.07726): a plain ViT without pooling, then one linear layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.config import IMAGE_SIZE, VisionConfig
from worker.models.attention import attend


class Attention(nn.Module):
    """Every patch looks at every patch."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x` and the result: (images, patches, width)."""
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(q, k, v)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class Mlp(nn.Module):
    """Two linear layers around a GELU (tanh form)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x` and the result: (images, patches, width)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.self_attn = Attention(config.width, config.num_heads)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config.width, config.mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """`x` and the result: (images, patches, width)."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class SigLip(nn.Module):
    """The tower with its projection to the prefix's width."""

    def __init__(self, config: VisionConfig, out_width: int) -> None:
        super().__init__()
        patch = config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.width, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.empty(config.tokens, config.width))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.post_layernorm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, out_width)

    def forward(self, images: Tensor) -> Tensor:
        """`images`: uint8 (n, 224, 224, 3), RGB. Returns (n, patches, out_width).

        Raises:
            ValueError: the images have another shape.
        """
        if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
            raise ValueError(f"images must be (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)")
        pixels = images.permute(0, 3, 1, 2).float() / 255.0 * 2.0 - 1.0
        patches = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype))
        x = patches.flatten(2).transpose(1, 2) + self.position_embedding
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(self.post_layernorm(x))
        return out
