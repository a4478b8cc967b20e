"""Every error class has a code of its own."""

from __future__ import annotations

import importlib
import pkgutil

import serving
from serving.errors import LockstepError, subclasses_by_code


def _all(root: type[LockstepError]) -> list[type[LockstepError]]:
    return [root, *(found for child in root.__subclasses__() for found in _all(child))]


def test_codes_are_unique_and_written_in_the_class() -> None:
    for module in pkgutil.iter_modules(serving.__path__):
        if module.name not in ("backend",):
            importlib.import_module(f"serving.{module.name}")
    classes = _all(LockstepError)
    assert len({c.code for c in classes}) == len(classes), sorted(c.code for c in classes)
    assert all("code" in vars(c) and c.__doc__ for c in classes)
    assert subclasses_by_code()["image_invalid"].__name__ == "ImageInvalid"


def test_a_hint_is_shown_with_its_message() -> None:
    assert str(LockstepError("what happened", hint="what to do")) == "what happened (what to do)"
