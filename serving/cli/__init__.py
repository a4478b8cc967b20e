"""The `lockstep` command: thin. Each command's module is imported when it is called, so `--help` is quick.

Results go to stdout, progress to stderr. Exit status: 0 ok, 1 failed, 2 usage.
"""

from __future__ import annotations

import sys

import typer

from serving.errors import LockstepError

app = typer.Typer(
    name="lockstep",
    help="Convert a trained checkpoint, certify it, serve it on REST and on live video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _register() -> None:
    from serving.cli import (
        commands_bad_cases,
        commands_duplicates,
        commands_evaluation,
        commands_galleries,
        commands_ingest,
        commands_letters,
        commands_models,
        commands_profile,
        commands_roles,
        commands_serving,
        commands_streams,
        commands_topics,
        commands_up,
    )

    modules = (commands_models, commands_serving, commands_streams, commands_topics, commands_roles, commands_ingest,
               commands_letters, commands_up, commands_galleries, commands_duplicates, commands_evaluation,
               commands_bad_cases, commands_profile)  # fmt: skip
    for module in modules:
        module.register(app)


def main() -> None:
    """Entry point: our errors become one line with their code, never a traceback."""
    _register()
    try:
        app()
    except LockstepError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
