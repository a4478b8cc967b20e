"""dead-letters: what was given up, why, and trying it once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.output import print_json, print_table, say, settings_from

Kafka = Annotated[str | None, typer.Option("--kafka", help="host:port of the brokers")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]
Reason = Annotated[str, typer.Option(help="poison, schema or retry_exhausted only")]
letters_app = typer.Typer(
    help="records that were given up: list, show, replay", add_completion=False, no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    letters_app.command("list")(list_letters)
    letters_app.command()(show)
    letters_app.command()(replay)
    app.add_typer(letters_app, name="dead-letters")


def list_letters(reason: Reason = "", kafka: Kafka = None, config: Config = None, json: Json = False) -> None:
    """Every dead letter that stands on the log, oldest first."""
    from serving.roles.dead_letters import read_letters
    from serving.roles.main import open_log

    log, names = open_log(settings_from(config, kafka=kafka), "dead-letters")
    rows = [letter.document() for letter in read_letters(log, names, _checked(reason))]
    print_json(rows) if json else print_table("dead letters", rows)


def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="as the list names it")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file for the original's bytes")] = None,
    force: Annotated[bool, typer.Option(help="overwrite the file")] = False,
    kafka: Kafka = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """One dead letter: why, the original's headers, and its bytes where --output names a file."""
    from serving.errors import StorageFailed
    from serving.roles.dead_letters import find_letters
    from serving.roles.main import open_log

    log, names = open_log(settings_from(config, kafka=kafka), "dead-letters")
    (found,) = find_letters(log, names, [letter_id])
    if output is not None and found.letter is not None:
        try:
            with output.open("wb" if force else "xb") as file:
                file.write(found.letter.record.value or b"")
        except OSError as error:
            raise StorageFailed(f"{output}: cannot be written: {error.strerror}", hint="--force overwrites") from error
    details = found.details()
    if json:
        print_json(details)
        return
    headers = details.pop("headers", {})
    print_table(f"dead letter {letter_id}", [{"field": name, "value": value} for name, value in details.items()])
    print_table("headers of the original", [{"header": name, "value": value} for name, value in headers.items()])


def replay(
    letter_ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="as the list names them")] = None,
    every: Annotated[bool, typer.Option("--all", help="all of them, or all of --reason")] = False,
    reason: Reason = "", kafka: Kafka = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Write the original records once more, each to where it came from; the letters stay for their time."""
    from serving.roles.dead_letters import find_letters, read_letters
    from serving.roles.dead_letters import replay as write_again
    from serving.roles.main import open_log

    if bool(letter_ids) == every or (reason and not every):
        raise typer.BadParameter("name IDs, or give --all (with --reason: all of one reason)")
    log, names = open_log(settings_from(config, kafka=kafka), "dead-letters")
    letters = list(read_letters(log, names, _checked(reason))) if every else find_letters(log, names, letter_ids or [])
    count = write_again(log, names, letters)
    say(f"{count} of {len(letters)} written again; keys that are closed keep their outcome")
    print_json({"replayed": count, "ids": [letter.name for letter in letters]}) if json else None
    if count != len(letters):
        raise typer.Exit(1)


def _checked(reason: str) -> str:
    from serving.records.dead_letters import REASONS

    if reason and reason not in REASONS:
        raise typer.BadParameter(f"--reason: expected one of {', '.join(REASONS)}, got {reason!r}")
    return reason
