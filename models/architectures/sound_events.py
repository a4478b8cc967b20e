"""Sounds by name, one window a call: a logarithmic mel spectrogram inside the graph, a GRU, a logit a class.

window FP32 [n, 768]: 256 samples of the past and 512 new ones at 16 kHz; state FP32 [n, 64]: what the GRU keeps. The
transform, its window and the bands are constants of the checkpoint, written as plain products, so that every stage of
a conversion has them and the certificate compares what they give. The GRU's step is written out for the same reason.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

RATE, CONTEXT, WINDOW = 16_000, 256, 512
FRAME, HOP, BINS = 512, 256, 257
BANDS, LOW_HZ, HIGH_HZ = 40, 60.0, 7600.0
HIDDEN = 64
# The square of the loudest line stays below 65504, which half precision holds; those of quiet ones it does not hold:
# squares, root and logarithm are in `keep_fp32` of the YAML.
SCALE, FLOOR = 0.25, 1e-3


def spectrum_rows() -> npt.NDArray[np.float32]:
    """float32 [514, 512]: real, then imaginary parts of a frame's discrete Fourier transform under a periodic Hann
    window (as scipy.signal.get_window), times SCALE."""
    at = np.arange(FRAME)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * at / FRAME)
    angle = 2 * np.pi * np.outer(np.arange(BINS), at) / FRAME
    return (SCALE * hann * np.concatenate([np.cos(angle), -np.sin(angle)])).astype(np.float32)


def band_rows() -> npt.NDArray[np.float32]:
    """float32 [40, 257]: triangles of equal width on the mel scale (2595 log10(1 + f / 700), O'Shaughnessy 1987)."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOW_HZ, HIGH_HZ))
    corners = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.arange(BINS) * RATE / FRAME
    rising = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


class SoundEvents(nn.Module):
    """See the module."""

    spectrum: Tensor
    bands: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("spectrum", torch.from_numpy(spectrum_rows())[:, None])
        self.register_buffer("bands", torch.from_numpy(band_rows()))
        self.inner = nn.Sequential(
            nn.Conv1d(2, 12, 5, stride=2, padding=2), nn.ReLU(inplace=True),
            nn.Conv1d(12, 16, 5, stride=2, padding=2), nn.ReLU(inplace=True),
            nn.Flatten(), nn.Linear(16 * BANDS // 4, HIDDEN), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.gru = nn.GRUCell(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, classes)

    def forward(self, window: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, classes], each for a sigmoid of its own, and the state [n, 64] for the next window."""
        after = self.step(self.inner(self.heard(window)), state)
        return self.head(after), after

    def heard(self, window: Tensor) -> Tensor:
        """Logarithms of the bands of both frames, float32 [n, 2, 40], about -2 to 2."""
        waves = functional.conv1d(window.unsqueeze(1), self.spectrum, stride=HOP)
        lines = torch.sqrt(waves[:, :BINS] * waves[:, :BINS] + waves[:, BINS:] * waves[:, BINS:])
        return ((torch.log(torch.matmul(self.bands, lines) + FLOOR) + 2) / 3).transpose(1, 2)

    def step(self, entering: Tensor, state: Tensor) -> Tensor:
        """torch.nn.GRUCell by plain operators (Cho et al. 2014)."""
        reset_in, update_in, new_in = functional.linear(entering, self.gru.weight_ih, self.gru.bias_ih).chunk(3, dim=1)
        reset, update, new = functional.linear(state, self.gru.weight_hh, self.gru.bias_hh).chunk(3, dim=1)
        fresh = torch.tanh(new_in + torch.sigmoid(reset_in + reset) * new)
        return fresh + torch.sigmoid(update_in + update) * (state - fresh)


def sound_events(classes: int = 5) -> SoundEvents:
    """An untrained network; weights come from the checkpoint."""
    return SoundEvents(classes)
