"""Face recognition: detect, align, embed, ask the gallery; people enrolled by REST, a stranger stays unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.importers.manifest import read_manifest
from models.importers.package import fetch
from serving.draw import annotate
from tools.workloads.bench import Bench, boxes_of, read_rgb
from tools.workloads.row import Row, Shown

PIPELINE, GALLERY = "face_identify", "faces"
ENROLLED = {"obama": ("Barack Obama", ("obama.jpg", "obama3.jpg")), "biden": ("Joe Biden", ("biden.jpg",))}


def show(bench: Bench) -> Shown:
    """Two people enrolled, one of them found in another photo, four strangers not taken for them."""
    package = fetch(read_manifest()["face-recognition"], bench.settings.cache_dir, lambda text: None)
    photos = {name: package.path(f"tests/test_images/{name}.jpg") for name in ("obama", "obama2", "obama3", "biden")}
    gallery = _enrolled(bench, photos)
    strangers = bench.samples("face_retina") / "sample4.jpg"
    pictures, answer = [], []
    for picture in (photos["obama2"], strangers):
        rows = bench.ask(PIPELINE, picture)["detections"]
        called = [f"{row['label']} {row['identity']['score']:.2f}" for row in rows]
        pictures.append((picture.name, annotate(read_rgb(picture), boxes_of(rows), called=called)))
        answer += [_told(picture, row) for row in rows]
    nobody, cost_alone = bench.measured(PIPELINE, bench.samples("face_retina") / "coffee.png")
    _, cost = bench.measured(PIPELINE, photos["obama2"])
    figures = {
        "gallery": f"{gallery['subjects']} people, {gallery['samples']} pictures",
        **cost,
        "without a face": f"{len(nobody['detections'])} rows, {cost_alone[f'{PIPELINE}: a request']}",
        **bench.score(PIPELINE),
    }
    return Shown(pictures, figures, answer)


def _enrolled(bench: Bench, photos: dict[str, Path]) -> dict[str, Any]:
    """A new gallery with the known people."""
    if any(row["name"] == GALLERY for row in bench.call("GET", "/v1/galleries")["galleries"]):
        bench.call("DELETE", f"/v1/galleries/{GALLERY}")
    bench.call("POST", "/v1/galleries", json={"name": GALLERY, "pipeline": PIPELINE})
    for subject, (label, names) in ENROLLED.items():
        for name in names:
            bench.post(f"/v1/galleries/{GALLERY}/subjects/{subject}", photos[Path(name).stem], label=label)
    found: dict[str, Any] = bench.call("GET", f"/v1/galleries/{GALLERY}")
    return found


def _told(picture: Path, row: dict[str, Any]) -> dict[str, Any]:
    who = row["identity"]
    return {"picture": picture.name, "label": row["label"], "score": who["score"], "margin": who["margin"],
            "reason": who.get("reason", "")}  # fmt: skip


ROW = Row(
    50, "Face recognition and galleries",
    "RetinaFace finds faces, each is turned onto the embedder's template, and a gallery says who it is, or `unknown`.",
    ("face_retina", "face_embedder", "face_identify"), show,
)  # fmt: skip
