"""Classification: the best classes of real photos."""

from __future__ import annotations

from serving.draw import draw_banner
from tools.workloads.bench import Bench, read_rgb
from tools.workloads.row import Row, Shown

MODEL, PHOTOS = "mobilenet_v2", ("chelsea.png", "coffee.png", "baboon.jpg")


def show(bench: Bench) -> Shown:
    """Three photos with their best classes, and the request's cost."""
    samples, pictures, answer = bench.samples(MODEL), [], []
    for name in PHOTOS:
        classes = bench.ask(MODEL, samples / name, top_k=3)["classes"]
        rgb = read_rgb(samples / name).copy()
        draw_banner(rgb, "\n".join(f"{row['score']:.3f}  {row['label']}" for row in classes))
        pictures.append((name, rgb))
        answer += [{"picture": name, "label": row["label"], "score": row["score"]} for row in classes]
    _, figures = bench.measured(MODEL, samples / PHOTOS[0], top_k=3)
    return Shown(pictures, {**figures, **bench.score(MODEL)}, answer)


ROW = Row(10, "Classification", "MobileNetV2 names one of 1000 ImageNet classes; top 3, by REST.", (MODEL,), show)
