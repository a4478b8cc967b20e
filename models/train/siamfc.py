"""Train the SiamFC embedding on pairs of crops, in a few minutes on one core.

    python -m models.train.siamfc --output siamfc.pth --samples siamfc_samples/

Loss: binary cross-entropy of the score map against the object's place (Bertinetto et al. 2016), and of every template
of the batch against the searches of all others, where it is nowhere.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.train.siamfc_scenes import (
    CLIP,
    CLIP_TRAINED,
    Pairs,
    Sources,
    clip_frames,
    packages_here,
    pairs,
    people,
    photos,
)

EPOCHS, COUNT, BATCH, JUDGED = 8, 600, 24, 240
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Trained:
    """The checkpoint (torch.save bytes of a state dict) and how training went, an entry an epoch.

    loss: mean of the training batches; found: share of pairs from photos not trained on whose best place is within two
    cells of the truth.
    """

    checkpoint: bytes
    loss: tuple[float, ...]
    found: tuple[float, ...]


def sources(packages: Any) -> tuple[Sources, Sources]:
    """For training and for judging."""
    frames = clip_frames(packages["opencv-doc"].path(CLIP), 0, CLIP_TRAINED, 5)
    return (
        Sources(tuple(photos(packages, held_out=False).values()), people(frames)),
        Sources(tuple(photos(packages, held_out=True).values())),
    )


def train(
    learned: Sources, judged: Sources, *, seed: int = 7, epochs: int = EPOCHS, count: int = COUNT, batch: int = BATCH,
    progress: Callable[[str], None] = lambda line: None,
) -> Trained:  # fmt: skip
    """Train on the CPU, reproducibly. count: new pairs an epoch."""
    import torch

    from models.architectures.siamfc import siamfc
    from models.train.digits import _one_thread

    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        net = siamfc()
        steps = epochs * (count // batch)
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
        test = pairs(judged, JUDGED, seed + 1)
        losses, found = [], []
        for epoch in range(epochs):
            made = pairs(learned, count, 1000 * seed + epoch)
            net.train()
            total = 0.0
            for start in range(0, count - batch + 1, batch):
                optimiser.zero_grad()
                loss = _loss(net, _cut(made, start, batch))
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * batch
            losses.append(total / count)
            found.append(_found(net, test))
            progress(f"siamfc: epoch {epoch + 1}/{epochs}, loss {losses[-1]:.3f}, found {found[-1]:.3f}")
    sink = io.BytesIO()
    torch.save(net.state_dict(), sink)
    return Trained(sink.getvalue(), tuple(losses), tuple(found))


def _cut(made: Pairs, start: int, batch: int) -> Pairs:
    part = slice(start, start + batch)
    return Pairs(made.template[part], made.search[part], made.offset[part])


def tensor_of(pictures: Any) -> Any:
    """uint8 [n, h, w, 3] -> normalised float32 [n, 3, h, w], as the YAML of docs/single-object-tracking.md says."""
    import torch

    values = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (values - mean) / std


def logits(net: Any, made: Pairs) -> Any:
    """Of every template on every search crop: [searches, templates, 17, 17]."""
    import torch
    from torch.nn import functional

    from serving.tracking.siamese import SiameseRules, cell_weights

    rules = SiameseRules()
    kernels = net(tensor_of(made.template)) * torch.from_numpy(cell_weights(rules.cells))
    return rules.sharpness * (functional.conv2d(net(tensor_of(made.search)), kernels) - rules.middle)


def _loss(net: Any, made: Pairs) -> Any:
    import torch
    from torch.nn import functional

    scores = logits(net, made)
    own = torch.eye(len(scores), dtype=torch.bool)
    mine, near, far = scores[own], *_places(made, scores.shape[-1])
    yes = functional.softplus(-mine[near]).mean()
    no = functional.softplus(mine) * far
    worst = no.flatten(1).topk(12).values.mean()
    others = functional.softplus(scores[~own].flatten(1).amax(1)).mean()
    return yes + 0.5 * no.sum() / far.sum() + 0.5 * worst + 0.5 * others


def _places(made: Pairs, side: int) -> tuple[Any, Any]:
    """Cells that are the object, at most 0.8 of a cell away, and those that are not, two or more away."""
    import torch

    from models.architectures.siamfc import STRIDE

    at = torch.arange(side) - (side - 1) / 2
    right, down = (torch.from_numpy(made.offset[:, n]) / STRIDE for n in (0, 1))
    away = torch.hypot(at[None, None, :] - right[:, None, None], at[None, :, None] - down[:, None, None])
    return away <= 0.8, (away >= 2.0).float()


def _found(net: Any, judged: Pairs) -> float:
    import torch

    net.eval()
    hits = 0
    with torch.no_grad():
        for start in range(0, len(judged.offset), 24):
            part = _cut(judged, start, 24)
            scores = logits(net, part)
            best = scores[torch.eye(len(scores), dtype=torch.bool)].flatten(1).argmax(1).numpy()
            side = scores.shape[-1]
            place = (np.stack([best % side, best // side], axis=1) - (side - 1) / 2) * 4
            hits += int((np.abs(place - part.offset).max(axis=1) <= 8).sum())
    return hits / len(judged.offset)


def write_samples(judged: Sources, folder: Path, count: int = 48) -> None:
    """Search crops as PNG, for the certificate."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pairs(judged, count, 99).search):
        Image.fromarray(picture).save(folder / f"search_{number:03d}.png")


def main() -> None:
    """Train, print the curves, write the checkpoint."""
    options = argparse.ArgumentParser(description="train the SiamFC embedding")
    options.add_argument("--output", type=Path, required=True, help="checkpoint to write (a state dict)")
    options.add_argument("--samples", type=Path, help="folder for 48 search crops of unseen photos")
    options.add_argument("--seed", type=int, default=7)
    chosen = options.parse_args()
    learned, judged = sources(packages_here())
    trained = train(learned, judged, seed=chosen.seed, progress=print)
    chosen.output.write_bytes(trained.checkpoint)
    if chosen.samples:
        write_samples(judged, chosen.samples)
    print(json.dumps({"loss": np.round(trained.loss, 4).tolist(), "found": np.round(trained.found, 4).tolist()}))


if __name__ == "__main__":
    main()
