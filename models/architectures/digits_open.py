"""Three heads on one small trunk, for classifiers that must refuse what they were not taught."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.digits_net import DigitsNet

Head = Literal["other", "sigmoid", "cosine"]


class OpenDigits(DigitsNet):
    """Input `[N, 1, 32, 32]` float32 in 0..1; output `[N, classes]`, or classes + 1 with head `other`.

    other: logits for a softmax whose last class is 'none of these'; sigmoid: one logit a class, each on its own;
    cosine: similarity of the picture's embedding to one learned embedding a class (NormFace, Wang et al. 2017).
    """

    def __init__(self, classes: int, width: int, head: Head) -> None:
        super().__init__(classes + (head == "other"), width)
        self.kind = head
        if head == "cosine":
            self.head = nn.Linear(4 * width, 4 * width)
            self.class_embeddings = nn.Parameter(torch.randn(classes, 4 * width))

    def forward(self, image: Tensor) -> Tensor:
        """Logits or cosines of a batch of pictures."""
        answer = super().forward(image)
        if self.kind != "cosine":
            return answer
        return functional.normalize(answer) @ functional.normalize(self.class_embeddings).T


def digits_open(classes: int = 7, width: int = 16, head: Head = "sigmoid") -> OpenDigits:
    """An untrained network; weights come from the checkpoint."""
    return OpenDigits(classes, width, head)
