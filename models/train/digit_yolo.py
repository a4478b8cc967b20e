"""Train the anchor-free digit detector on scenes made of scikit-learn's digits, in about two minutes on one core.

python -m models.train.digit_yolo --output digit_yolo.pth --samples samples/
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

from models.train.digit_scenes import Scenes, scenes, write_scenes
from models.train.digits import load

TRAINED_ON, HELD_OUT, EPOCHS = 2000, 64, 12


@dataclass(frozen=True, slots=True)
class Trained:
    """The checkpoint (torch.save bytes of a state dict) and how training went, an entry an epoch.

    loss: mean of the training batches; found: share of held-out digits that have a box of their class (score 0.3 or
    more) at IoU 0.5 or more.
    """

    checkpoint: bytes
    loss: tuple[float, ...]
    found: tuple[float, ...]


def held_out(seed: int = 7, count: int = HELD_OUT) -> Scenes:
    """Scenes of digits that training never saw."""
    data = load(seed)
    return scenes(data.held_out_images, data.held_out_labels, count, seed + 1)


def train(
    *, seed: int = 7, epochs: int = EPOCHS, count: int = TRAINED_ON, batch: int = 32,
    progress: Callable[[str], None] = lambda line: None,
) -> Trained:  # fmt: skip
    """Train on the CPU, reproducibly."""
    import torch

    from models.architectures.digit_yolo import digit_yolo
    from models.train.digits import _one_thread, _tensor

    data = load(seed)
    made = scenes(data.train_images, data.train_labels, count, seed)
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        net = digit_yolo()
        pictures = _tensor(as_sent(made.images, seed))
        targets = [_targets(net, boxes, digits) for boxes, digits in zip(made.boxes, made.digits, strict=True)]
        boxes, classes = (torch.stack(column) for column in zip(*targets, strict=True))
        optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
        steps = epochs * -(-count // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=8e-3, total_steps=steps)
        judged = held_out(seed)
        losses, found = [], []
        for epoch in range(epochs):
            net.train()
            total = 0.0
            for chosen in torch.randperm(count).split(batch):  # type: ignore[no-untyped-call]
                optimiser.zero_grad()
                loss = _loss(net, pictures[chosen], boxes[chosen], classes[chosen])
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            losses.append(total / count)
            found.append(_found(net, judged))
            progress(f"digit_yolo: epoch {epoch + 1}/{epochs}, loss {losses[-1]:.3f}, found {found[-1]:.3f}")
    sink = io.BytesIO()
    torch.save(net.state_dict(), sink)
    return Trained(sink.getvalue(), tuple(losses), tuple(found))


def as_sent(images: Any, seed: int) -> Any:
    """Every second picture as JPEG leaves it (quality 75 to 95): without them one held-out scene in 64 has another
    digit after the log's JPEG."""
    import cv2

    rng = np.random.default_rng(seed)
    sent = images.copy()
    for place in range(0, len(images), 2):
        quality = int(rng.integers(75, 96))
        _, encoded = cv2.imencode(".jpg", images[place], [cv2.IMWRITE_JPEG_QUALITY, quality])
        sent[place] = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    return sent


def _targets(net: Any, boxes: Any, digits: Any) -> tuple[Any, Any]:
    """Of each cell its digit's box [4, cells] and class [cells], -1 where there is none.

    A cell belongs to the digit whose middle is within one stride of its centre, in both directions (the centre sampling
    of FCOS); between two, to the nearer one.
    """
    import torch

    from models.architectures.digit_yolo import STRIDE

    cells = net.centres.shape[1]
    wanted, classes = torch.zeros(4, cells), torch.full((cells,), -1)
    nearest = torch.full((cells,), float(STRIDE))
    for box, digit in zip(torch.from_numpy(boxes), digits.tolist(), strict=True):
        middle = (box[:2] + box[2:]) / 2
        far = (net.centres - middle[:, None]).abs().amax(0)
        inside = ((net.centres > box[:2, None]) & (net.centres < box[2:, None])).all(0)
        mine = (far < nearest) & inside
        nearest[mine] = far[mine]
        wanted[:, mine], classes[mine] = box[:, None], digit
    return wanted, classes


def _loss(net: Any, pictures: Any, boxes: Any, classes: Any) -> Any:
    """Focal loss of the scores (Lin et al. 2017) and 1 - GIoU of the boxes (Rezatofighi et al. 2019), a digit cell."""
    import torch
    from torch.nn import functional
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    xyxy, logits = net.raw(pictures)
    has = classes >= 0
    truth = functional.one_hot(classes.clamp(min=0), logits.shape[1]).permute(0, 2, 1) * has[:, None]
    scores = sigmoid_focal_loss(logits, truth.float(), alpha=0.5, gamma=2.0, reduction="sum")
    sides = generalized_box_iou_loss(xyxy.permute(0, 2, 1)[has], boxes.permute(0, 2, 1)[has], reduction="sum")
    return (4 * scores + sides) / torch.clamp(has.sum(), min=1)


def _found(net: Any, judged: Scenes) -> float:
    """See `Trained.found`."""
    import torch
    from torchvision.ops import box_iou

    from models.train.digits import _tensor

    net.eval()
    with torch.no_grad():
        xyxy, logits = net.raw(_tensor(judged.images))
    scores, right, wanted = logits.sigmoid(), 0, 0
    for boxes, digits, found, score in zip(judged.boxes, judged.digits, xyxy, scores, strict=True):
        overlap = box_iou(torch.from_numpy(boxes), found.T)
        sure = score[torch.from_numpy(digits)] >= 0.3
        right += int(((overlap >= 0.5) & sure).any(dim=1).sum())
        wanted += len(digits)
    return right / wanted


def main() -> None:
    """Train, print the curve, write checkpoint and held-out scenes."""
    options = argparse.ArgumentParser(description="train the digit detector")
    options.add_argument("--output", type=Path, required=True, help="checkpoint to write (a state dict)")
    options.add_argument("--samples", type=Path, help="folder for held-out scenes, annotations.json and labels.csv")
    options.add_argument("--seed", type=int, default=7)
    chosen = options.parse_args()
    trained = train(seed=chosen.seed, progress=print)
    chosen.output.write_bytes(trained.checkpoint)
    if chosen.samples:
        write_scenes(held_out(chosen.seed), chosen.samples)
    print(json.dumps({"loss": np.round(trained.loss, 4).tolist(), "found": np.round(trained.found, 4).tolist()}))


if __name__ == "__main__":
    main()
