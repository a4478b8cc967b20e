"""`package.module:function` addresses out of a spec: found, called, and every failure turned into words.

What is called is the model owner's code, which may raise anything; it runs in the limited child only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from serving.errors import ConversionError, SpecInvalid


def resolve(address: str, what: str) -> Callable[..., Any]:
    """The callable at `package.module:function`. Raises SpecInvalid saying what is missing."""
    module, name = address.split(":")
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        raise SpecInvalid(
            f"{what} {address}: {error}", hint="its folder must be the YAML's, the working folder or installed"
        ) from error
    except AttributeError as error:
        raise SpecInvalid(f"{what} {address}: module {module} has no {name!r}") from error
    except Exception as error:  # a module runs code when it is imported
        raise SpecInvalid(f"{what} {address}: importing {module} raised {said(error)}") from error
    if not callable(found):
        raise SpecInvalid(f"{what} {address}: expected a callable, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def call(function: Callable[..., Any], what: str, *arguments: Any, **named: Any) -> Any:
    """Call foreign code. Its own exceptions become a SpecInvalid that begins with `what`; ours and MemoryError pass."""
    try:
        return function(*arguments, **named)
    except (ConversionError, MemoryError):
        raise
    except Exception as error:  # foreign code may raise anything
        raise SpecInvalid(f"{what}: {said(error)}") from error


def said(error: BaseException, limit: int = 400) -> str:
    """Class and text of an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:limit]
