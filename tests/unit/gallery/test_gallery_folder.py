"""A folder into a gallery, and its duplicates, as typed: the pipeline is a function of a picture's mean colour."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from serving.cli import commands_duplicates, commands_galleries
from serving.errors import ImageInvalid
from serving.gallery import Facts, Galleries


class ByColour:
    """Answers as a pipeline over the whole picture does: its mean colour as an embedding."""

    def infer(self, requests: Any) -> list[Any]:
        pixels = cv2.imdecode(np.frombuffer(requests[0].encoded, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            return [ImageInvalid("no picture")]
        return [pixels.reshape(-1, 3).mean(axis=0)]

    def document(self, answer: Any) -> dict[str, Any]:
        return {"steps": {"look": {"embedding": answer.tolist(), "fingerprint": "f" * 64}}}

    def close(self) -> None:
        return None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr("serving.cli.answer.open_model", lambda settings, name: ByColour())
    app = typer.Typer()
    for module in (commands_galleries, commands_duplicates):
        module.register(app)
    Galleries(tmp_path / "galleries").create(Facts("photos", "photo_search"))
    (pictures := tmp_path / "pictures" / "a person").mkdir(parents=True)
    for name, colour in (
        ("red.png", (0, 0, 255)), ("green one.png", (0, 255, 0)), ("green/one.png", (0, 250, 9)),
        ("a person/1.png", (255, 0, 0)), ("a person/2.png", (255, 9, 0)),
    ):  # fmt: skip
        path = pictures.parent / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 4, 3), colour, np.uint8))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["galleries", *arguments, "--galleries", str(tmp_path / "galleries"), "--json"])

    return SimpleNamespace(run=run, pictures=pictures.parent)


def test_a_folder_is_enrolled_and_its_copies_are_found(home: SimpleNamespace) -> None:
    for _ in range(2):  # again: in place of what was there
        done = home.run("enrol-folder", "photos", str(home.pictures))
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"gallery": "photos", "enrolled": 5, "refused": []}
    shown = json.loads(home.run("show", "photos").stdout)
    assert shown["samples"] == 5
    assert {row["label"]: row["samples"] for row in shown["subjects_list"]} == {
        "a person": 2, "green": 1, "green one.png": 1, "red.png": 1,
    }  # fmt: skip
    found = json.loads(home.run("duplicates", "photos", "--threshold", "0.99").stdout)
    assert found["samples"] == 5 and found["threshold"] == 0.99
    groups = sorted(sorted(member["label"] for member in group["samples"]) for group in found["groups"])
    assert groups == [["a person", "a person"], ["green", "green one.png"]]
    assert home.run("duplicates", "photos").exit_code == 1, "no threshold of its own: said, not guessed"


def test_a_picture_that_does_not_do_is_named_and_the_others_are_enrolled(home: SimpleNamespace) -> None:
    (home.pictures / "broken.png").write_bytes(b"no picture")
    done = home.run("enrol-folder", "photos", str(home.pictures))
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and told["enrolled"] == 5
    assert [(Path(row["picture"]).name, row["code"]) for row in told["refused"]] == [("broken.png", "image_invalid")]
    assert home.run("enrol-folder", "photos", str(home.pictures / "nothing")).exit_code == 2


def test_names_that_are_no_ids_never_become_one() -> None:
    names = ("a b.png", "a_b.png", "a/b.png", "ä.png", "ö.png", ".png", "x" * 100)
    ids = [commands_duplicates._subject_of(name) for name in names]
    assert len(set(ids)) == len(ids) and ids[1] == "a_b.png"
    from serving.gallery.facts import checked_subject

    assert [checked_subject(one) for one in ids] == ids
