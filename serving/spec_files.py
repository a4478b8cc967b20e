"""The text files that a model's YAML names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from serving.errors import SpecInvalid


def text_of(path: Path, where: str) -> str:
    """UTF-8 text, without the byte order mark that spreadsheets and editors begin it with.

    Raises SpecInvalid that begins with `where` and names the file.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise SpecInvalid(f"{where}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        what = f"{where}: {path}: expected UTF-8 text, byte {error.start} is not"
        raise SpecInvalid(what, hint="save the file as UTF-8") from error


def labels_in(folder: Path, name: str, model: str) -> tuple[str, ...]:
    """The labels of a file, one a line, in class order. Raises SpecInvalid, also where one stands there twice."""
    source = folder / name
    if not source.is_file():
        raise SpecInvalid(f"{model}: labels file {name} does not exist", hint=f"looked in {folder}")
    found = [line.strip() for line in text_of(source, f"{model}: labels").splitlines() if line.strip()]
    repeated = [label for label, count in Counter(found).items() if count > 1]
    if repeated:
        what = f"expected unique names, {repeated[0]!r} stands there more than once"
        raise SpecInvalid(f"{model}: labels: {source}: {what}")
    return tuple(found)
