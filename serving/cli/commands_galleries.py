"""galleries: enrol, update, delete, search and list, in this process; the same files a running gateway uses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.output import print_json, print_table, say, settings_from

Name = Annotated[str, typer.Argument(help="a gallery's name")]
Subject = Annotated[str, typer.Argument(help="a subject's id: letters, digits, '.', '_', '-'")]
Picture = Annotated[Path, typer.Argument(help="JPEG, PNG or WebP file")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]
Repository = Annotated[Path | None, typer.Option("--repository", help="model repository")]
Folder = Annotated[Path | None, typer.Option("--galleries", help="folder of the galleries")]
Roi = Annotated[str, typer.Option(help="x1,y1,x2,y2: look at this part of the picture only")]

galleries_app = typer.Typer(help="known subjects: enrol, search, delete", add_completion=False, no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    galleries_app.command("list")(list_all)
    for command in (create, show, enrol, search, label, remove, delete, threshold):
        galleries_app.command()(command)
    app.add_typer(galleries_app, name="galleries")


def list_all(galleries: Folder = None, config: Config = None, json: Json = False) -> None:
    """Galleries with their numbers of subjects and samples."""
    from serving.gallery import Galleries
    from serving.gallery.asking import summary

    home = Galleries(settings_from(config, galleries=galleries).galleries)
    rows = [summary(home.get(name).facts, home.get(name).view()) for name in home.names()]
    print_json(rows) if json else print_table(f"galleries in {home.folder}", rows)


def create(
    name: Name,
    pipeline: Annotated[str, typer.Option("--pipeline", help="the published pipeline that enrols into it")],
    threshold: Annotated[float | None, typer.Option(help="cosine from which a subject is known")] = None,
    margin: Annotated[float | None, typer.Option(help="least lead over the next subject")] = None,
    galleries: Folder = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """A new, empty gallery."""
    from serving.gallery import Facts, Galleries
    from serving.gallery.asking import summary

    reader = Galleries(settings_from(config, galleries=galleries).galleries).create(
        Facts(name, pipeline, threshold=threshold, margin=margin)
    )
    _print(summary(reader.facts, reader.view()), json)


def show(name: Name, galleries: Folder = None, config: Config = None, json: Json = False) -> None:
    """A gallery with its subjects."""
    from serving.gallery import Galleries
    from serving.gallery.asking import subjects, summary

    reader = Galleries(settings_from(config, galleries=galleries).galleries).get(name)
    told = {**summary(reader.facts, reader.view()), "subjects_list": subjects(reader.view())}
    print_json(told) if json else print_table(f"{name}: {told['samples']} samples", told["subjects_list"])


def enrol(
    name: Name, subject: Subject,
    pictures: Annotated[list[Path], typer.Argument(help="pictures with this subject alone")],
    label: Annotated[str, typer.Option(help="the name that is shown")] = "",
    replaces: Annotated[bool, typer.Option("--replace", help="in place of what the subject had")] = False,
    roi: Roi = "", galleries: Folder = None, repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Add pictures to a subject: all of them, or none where one of them does not do."""
    from serving.gallery import Galleries, GalleryWriter
    from serving.gallery.asking import found_in, sample_of, subjects, to_enrol

    settings = settings_from(config, repository=repository, galleries=galleries)
    reader = Galleries(settings.galleries).get(name)
    samples, marks = [], []
    for path, document in _documents(settings, reader.facts.pipeline, pictures, roi):
        one = _named(path, lambda found=found_in(document): to_enrol(found))
        about = {"picture_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        samples.append(sample_of(one, about))
        marks.append(one.fingerprint)
        say(f"{path}: {len(samples)}/{len(pictures)}")
    with GalleryWriter(reader) as writer:
        writer.enrol(subject, samples, fingerprint=marks[0], label=label, replace=replaces)
    _print(next(row for row in subjects(reader.view()) if row["subject"] == subject), json)


def search(
    name: Name, picture: Picture, top: Annotated[int, typer.Option(min=1, max=50)] = 3, roi: Roi = "",
    galleries: Folder = None, repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Who everybody in a picture is."""
    from serving.backend import open_served
    from serving.bundle import newest_certified
    from serving.gallery import Galleries
    from serving.gallery.asking import answers, found_in, rule_of

    settings = settings_from(config, repository=repository, galleries=galleries)
    reader = Galleries(settings.galleries).get(name)
    bundle = newest_certified(settings.repository, reader.facts.pipeline)
    rule = rule_of(reader.facts, bundle.spec)
    with closing(open_served(bundle.version_dir, settings)) as model:
        document = ask_model(model, picture, roi)
    rows = answers(reader.view(), reader.facts, rule, found_in(document), top)
    if json:
        print_json(rows)
    else:
        shown = ("status", "label", "score", "margin", "reason", "xyxy")
        print_table(str(picture), [{name: row.get(name, "") for name in shown} for row in rows])


def label(
    name: Name, subject: Subject, text: Annotated[str, typer.Argument(help="the name that is shown")],
    galleries: Folder = None, config: Config = None,
) -> None:  # fmt: skip
    """Another label for a subject."""
    with _writer(settings_from(config, galleries=galleries), name) as writer:
        writer.relabel(subject, text)


def remove(name: Name, subject: Subject, galleries: Folder = None, config: Config = None) -> None:
    """Delete a subject with all its samples."""
    with _writer(settings_from(config, galleries=galleries), name) as writer:
        writer.remove(subject)


def delete(name: Name, galleries: Folder = None, config: Config = None) -> None:
    """Delete a gallery with all it holds."""
    from serving.gallery import Galleries

    Galleries(settings_from(config, galleries=galleries).galleries).delete(name)


def threshold(
    name: Name,
    far: Annotated[float | None, typer.Option(help="the false-accept rate that is wanted, e.g. 0.001")] = None,
    value: Annotated[float | None, typer.Option(help="the cosine itself")] = None,
    galleries: Folder = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """From which cosine on a subject is known: by a false-accept rate on the gallery's own pairs, or as given."""
    from serving.gallery import Galleries, GalleryWriter, threshold_for

    if (far is None) == (value is None):
        raise typer.BadParameter("give --far or --value")
    reader = Galleries(settings_from(config, galleries=galleries).galleries).get(name)
    with GalleryWriter(reader) as writer:
        told: dict[str, Any] = {"threshold": value}
        if far is not None:
            found = threshold_for(reader.view(), far)
            told = {"threshold": found.threshold, "far": found.far, "tar": found.tar, "impostor_pairs": found.impostors,
                    "genuine_pairs": found.genuine}  # fmt: skip
        writer.set_facts(replace(reader.facts, threshold=told["threshold"], far=far))
    _print(told, json)


def _documents(
    settings: Any, pipeline: str, pictures: list[Path], roi: str
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    from serving.cli.answer import open_model

    with closing(open_model(settings, pipeline)) as model:
        for path in pictures:
            yield path, ask_model(model, path, roi)


def ask_model(model: Any, path: Path, roi: str) -> dict[str, Any]:
    """The document of a picture file with its embeddings. Raises BadParameter for a file that cannot be read."""
    from serving.errors import ServingError
    from serving.types import InferRequest

    try:
        data = path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error
    (answer,) = model.infer([InferRequest(encoded=data, parameters={"embeddings": True, "roi": roi})])
    if isinstance(answer, ServingError):
        raise type(answer)(f"{path}: {answer.message}", hint=answer.hint)
    document: dict[str, Any] = model.document(answer)
    return document


def _named(path: Path, step: Any) -> Any:
    from serving.errors import ServingError

    try:
        return step()
    except ServingError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


def _writer(settings: Any, name: str) -> Any:
    from serving.gallery import Galleries, GalleryWriter

    return GalleryWriter(Galleries(settings.galleries).get(name))


def _print(row: Mapping[str, Any], json: bool) -> None:
    print_json(row) if json else print_table(str(row.get("name", row.get("subject", "threshold"))), [row])
