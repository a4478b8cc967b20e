"""Multi-label classification: which digits are in a scene, each class with a threshold of its own."""

from __future__ import annotations

from serving.draw import draw_banner
from tools.workloads.bench import Bench, read_rgb, scaled
from tools.workloads.row import Row, Shown

MODEL = "digits_multi"


def show(bench: Bench) -> Shown:
    """Three scenes with their digits, in two scenarios."""
    scenes = sorted(bench.samples(MODEL).glob("*.png"))
    pictures, answer = [], []
    for scene in scenes[:12:4]:
        classes = bench.ask(MODEL, scene)["classes"]
        canvas = scaled(read_rgb(scene), 288)
        draw_banner(canvas, "  ".join(f"{row['label']}: {row['score']:.2f}" for row in classes) or "no digit")
        pictures.append((scene.name, canvas))
        recall = bench.ask(MODEL, scene, scenario="recall", top_k=10)["classes"]
        answer.append({"picture": scene.name, "digits": " ".join(row["label"] for row in classes),
                       "scenario recall": " ".join(row["label"] for row in recall)})  # fmt: skip
    _, figures = bench.measured(MODEL, scenes[0])
    return Shown(pictures, {**figures, **bench.score(MODEL)}, answer)


ROW = Row(15, "Multi-label classification", "A sigmoid a class: any number of digits in one scene.", (MODEL,), show)
