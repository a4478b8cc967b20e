"""Request parameters: which ones a model takes, and reading them from a query string or from JSON, strictly.

The names, types and ranges are the task's (serving.tasks); here they are only read in the form of the wire.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from serving.errors import ParameterInvalid
from serving.spec import ModelSpec
from serving.tasks import task_named
from serving.tasks.base import COMMON_PARAMETERS, Parameter, parse_parameters

ROI = r"^[0-9]{1,5},[0-9]{1,5},[0-9]{1,5},[0-9]{1,5}$"
_MAX_QUERY = 2048
_NUMBER = {
    "int": re.compile(r"-?[0-9]{1,18}"),
    "float": re.compile(r"[-+]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE][-+]?[0-9]{1,3})?"),
}
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int, float),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


def parameters_of(spec: ModelSpec) -> dict[str, Parameter]:
    """Every parameter that a model takes: `scenario` where the spec has scenarios, `roi` where it takes pictures."""
    common = dict(COMMON_PARAMETERS)
    if not spec.scenarios:
        del common["scenario"]
    if not spec.takes_pictures:
        del common["roi"]
    return {**task_named(spec.task).parameters, **common}


def from_query(query: bytes, spec: ModelSpec) -> dict[str, Any]:
    """A raw query string -> checked parameters by name, only those that were given. Raises ParameterInvalid."""
    if not query:
        return {}
    known = parameters_of(spec)
    return checked({name: _from_text(name, text, known.get(name)) for name, text in pairs_of(query).items()}, spec)


def pairs_of(query: bytes) -> dict[str, str]:
    """A raw query string -> its parameters as text, each given once. Raises ParameterInvalid."""
    if len(query) > _MAX_QUERY:
        raise ParameterInvalid(f"query string: expected at most {_MAX_QUERY} bytes, got {len(query)}")
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
    except ValueError:
        raise ParameterInvalid("query string: expected at most 64 parameters") from None
    given: dict[str, str] = {}
    for name, text in pairs:
        if name in given:
            raise ParameterInvalid(f"{_shown(name)}: given twice")
        given[name] = text
    return given


def from_json(value: Any, spec: ModelSpec) -> dict[str, Any]:
    """The `parameters` object of a JSON body -> checked parameters. Types are JSON's: "5" is no number."""
    if not isinstance(value, dict):
        raise ParameterInvalid(f"parameters: expected an object, got {type(value).__name__}")
    known = parameters_of(spec)
    for name, item in value.items():
        if name in known:
            kind = known[name].kind
            wrong = isinstance(item, bool) and kind != "bool"
            if wrong or not isinstance(item, _JSON_TYPES[kind]):
                got = f"{reprlib.repr(item)[:60]} ({type(item).__name__})"
                raise ParameterInvalid(f"{name}: expected {kind}, got {got}")
    return checked(value, spec)


def checked(given: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """Names and ranges by the task; the given ones as their types. Raises ParameterInvalid."""
    known = parameters_of(spec)
    for name in given:
        if name not in known:
            raise ParameterInvalid(f"unknown parameter {_shown(name)!r}; {spec.name} takes {', '.join(sorted(known))}")
    if "roi" in given and not re.fullmatch(ROI, str(given["roi"])):
        raise ParameterInvalid(f"roi: expected x1,y1,x2,y2 as whole pixels, got {_shown(str(given['roi']))!r}")
    parse_parameters(task_named(spec.task), spec, given)
    return {name: known[name].parse(name, value) for name, value in given.items()}


def whole(value: Any) -> int | None:
    """A JSON number without a fraction (132 and 132.0 are the same number there), None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        return None
    return int(value)


def to_wire(parameters: Mapping[str, Any]) -> dict[str, str | int | bool]:
    """As the inference protocol carries them: floats become text, which the task reads back exactly."""
    return {n: repr(v) if isinstance(v, float) else v for n, v in parameters.items()}


def _from_text(name: str, text: str, parameter: Parameter | None) -> str:
    pattern = _NUMBER.get(parameter.kind) if parameter else None
    if pattern and parameter and not pattern.fullmatch(text):
        raise ParameterInvalid(f"{name}: expected {parameter.kind}, got {_shown(text)!r}")
    return text


def _shown(text: str) -> str:
    return text[:60]
