"""A rules file of track events: zones and lines in source pixels, debounce times."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import ParameterInvalid
from serving.tracking.events import EventRules, Point

_MOST_BYTES = 1 << 20


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    zones: dict[str, tuple[Point, ...]] = Field(default_factory=dict)
    lines: dict[str, tuple[Point, Point]] = Field(default_factory=dict)
    settle_s: float = 0.2
    lost_s: float = 1.0


def read_rules(path: Path) -> EventRules:
    """The rules of a YAML file. Raises ParameterInvalid naming the key."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ParameterInvalid(f"{path}: expected at most {_MOST_BYTES >> 20} MiB")
        tree = yaml.safe_load(path.read_text("utf-8"))
        rules = _File.model_validate(tree if tree is not None else {})
    except OSError as error:
        raise ParameterInvalid(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterInvalid(f"{path}: is not YAML: {' '.join(str(error).split())[:200]}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        known = ", ".join(_File.model_fields)
        raise ParameterInvalid(f"{path}: {where}: {first['msg']}; known keys: {known}") from error
    return EventRules(rules.zones, rules.lines, rules.settle_s, rules.lost_s)
