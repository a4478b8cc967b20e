"""Silero's voice activity detector for 16 kHz (silero-vad 6), one window a call.

window FP32 [n, 576]: 64 samples of the past and 512 new ones; state FP32 [n, 2, 128]: hidden and cell of the LSTM.
The layers and their names are those of the package's `silero_vad_16k.safetensors`; the LSTM's step is written out, so
that every stage of a conversion computes it from the same plain operators.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

BINS = 129
HIDDEN = 128
PAD = 64


class LstmStep(nn.Module):
    """One step of an LSTM: gates in the order input, forget, cell, output, as torch.nn.LSTMCell."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.zeros(4 * size, size))
        self.weight_hh = nn.Parameter(torch.zeros(4 * size, size))
        self.bias_ih = nn.Parameter(torch.zeros(4 * size))
        self.bias_hh = nn.Parameter(torch.zeros(4 * size))

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x, h, c: [n, size]; the new h and c."""
        gates = functional.linear(x, self.weight_ih, self.bias_ih) + functional.linear(h, self.weight_hh, self.bias_hh)
        enter, keep, fresh, show = gates.chunk(4, dim=1)
        c = torch.sigmoid(keep) * c + torch.sigmoid(enter) * torch.tanh(fresh)
        return torch.sigmoid(show) * torch.tanh(c), c


class SileroVad(nn.Module):
    """Magnitudes of a learned short-time transform, four convolutions, an LSTM, one score."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, HIDDEN, 3, padding=1)
        self.lstm_cell = LstmStep(HIDDEN)
        self.final_conv = nn.Conv1d(HIDDEN, 1, 1)

    def forward(self, window: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The probability of speech [n, 1] and the state [n, 2, 128] for the next window."""
        mirrored = torch.flip(window[:, -PAD - 1 : -1], dims=(1,))
        waves = self.stft_conv(torch.cat([window, mirrored], dim=1).unsqueeze(1))
        x = torch.sqrt(waves[:, :BINS] ** 2 + waves[:, BINS:] ** 2)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.relu(layer(x))
        h, c = self.lstm_cell(x.squeeze(-1), state[:, 0], state[:, 1])
        score = torch.sigmoid(self.final_conv(torch.relu(h).unsqueeze(-1)))
        return score.squeeze(-1), torch.stack([h, c], dim=1)


def silero_vad() -> nn.Module:
    """The untrained module."""
    return SileroVad()
