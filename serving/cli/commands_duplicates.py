"""galleries enrol-folder, galleries duplicates: a folder of pictures into a gallery, and which of them are copies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.commands_galleries import Config, Folder, Json, Name, Repository, ask_model, galleries_app
from serving.cli.output import print_json, print_table, say, settings_from


def register(app: typer.Typer) -> None:
    """Add the commands to `galleries`."""
    galleries_app.command("enrol-folder")(enrol_folder)
    galleries_app.command("duplicates")(duplicates)


def enrol_folder(
    name: Name, folder: Annotated[Path, typer.Argument(help="pictures, each a subject; a subfolder is one subject")],
    galleries: Folder = None, repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Enrol every picture of a folder, in place of what its subject had; those that do not do are named (exit 1)."""
    from converters.meter import Meter
    from serving.cli.answer import open_model
    from serving.gallery import Galleries, GalleryWriter

    settings = settings_from(config, repository=repository, galleries=galleries)
    reader = Galleries(settings.galleries).get(name)
    by_subject = _subjects_in(folder)
    refused: list[dict[str, str]] = []
    enrolled = 0
    with closing(open_model(settings, reader.facts.pipeline)) as model:
        for (subject, label), pictures in Meter(say, "enrol", len(by_subject)).over(by_subject.items()):
            samples, mark = _samples_of(model, pictures, refused)
            if samples:
                with GalleryWriter(reader) as writer:
                    writer.enrol(subject, samples, fingerprint=mark, label=label, replace=True)
                enrolled += len(samples)
    told = {"gallery": name, "enrolled": enrolled, "refused": refused}
    if json:
        print_json(told)
    else:
        print(f"{name}: {enrolled} pictures enrolled, {len(refused)} refused")
        print_table("refused", refused) if refused else None
    if refused or not enrolled:
        raise typer.Exit(1)


def duplicates(
    name: Name,
    threshold: Annotated[float | None, typer.Option(help="cosine of two copies; default: the gallery's")] = None,
    galleries: Folder = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Groups of samples that are near duplicates of each other; stored vectors are compared, no model is asked."""
    from serving.errors import ParameterInvalid
    from serving.gallery import Galleries, near_duplicates
    from serving.gallery.asking import duplicate_rows

    reader = Galleries(settings_from(config, galleries=galleries).galleries).get(name)
    bound = reader.facts.threshold if threshold is None else threshold
    if bound is None:
        raise ParameterInvalid(
            f"gallery {name}: it has no threshold", hint="give --threshold; `lockstep thresholds` finds one"
        )
    view = reader.view()
    told = duplicate_rows(view, near_duplicates(view, bound, lambda done, of: say(f"compared {done}/{of}")))
    if json:
        print_json({"gallery": name, "threshold": bound, "samples": len(view), "groups": told})
        return
    rows = [
        {"group": number, "samples": ", ".join(f"{m['label']} ({m['sample']})" for m in group["samples"]),
         "best": group["best"], "least": group["least"]} for number, group in enumerate(told, 1)
    ]  # fmt: skip
    print_table(f"{name}: near duplicates of {len(view)} samples from a cosine of {bound:g} on", rows)


def _samples_of(model: Any, pictures: list[Path], refused: list[dict[str, str]]) -> tuple[list[Any], str]:
    """What can be enrolled of these pictures, and the fingerprint of the chain; the others are added to `refused`."""
    from serving.errors import InputError
    from serving.gallery.asking import found_in, sample_of, to_enrol

    samples, mark = [], ""
    for path in pictures:
        try:
            one = to_enrol(found_in(ask_model(model, path, "")))
        except InputError as error:
            refused.append({"picture": str(path), "code": error.code, "reason": error.message})
            continue
        samples.append(sample_of(one, {"picture_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
        mark = one.fingerprint
    return samples, mark


def _subjects_in(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """(subject, label) -> its pictures: a picture that lies in the folder is a subject, so is a subfolder."""
    from evaluation.labelled import PICTURES

    if not folder.is_dir():
        raise typer.BadParameter(f"{folder}: not a folder")
    found: dict[tuple[str, str], list[Path]] = {}
    for path in _sorted_pictures(folder, PICTURES):
        label = path.relative_to(folder).parts[0]
        found.setdefault((_subject_of(label), label[:200]), []).append(path)
    if not found:
        raise typer.BadParameter(f"{folder}: no pictures ({', '.join(PICTURES)})")
    return found


def _sorted_pictures(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())


def _subject_of(label: str) -> str:
    """A name as a subject's id. One that had to be changed gets a mark of the name: two of them never become one."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", label):
        return label
    mark = hashlib.sha256(label.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', label).lstrip('._-')[:54] or 'picture'}-{mark}"
