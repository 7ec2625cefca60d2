"""The command line: parse, build, call. Heavy imports stand inside of the commands.

Exit codes: 0 success, 1 a gate that said no, 2 every other error, told in one sentence. A gate's no is an answer, which
a script may act on; a state that does not allow it, or a training that cannot go on, is none.
"""

from __future__ import annotations

import logging
import os
import sys

import click

from prefloop import __version__
from prefloop.cli import account, data, evaluate, online, serving, study, training, upkeep
from prefloop.cli.output import say
from prefloop.errors import GateError, PrefloopError

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="prefloop")
def cli() -> None:
    """The whole loop of reinforcement learning from human feedback.

    Begin with `prefloop demo`: one full round on the embedded defaults.
    """


for group in (online, serving, account, study, upkeep, data, training, evaluate):
    for command in group.COMMANDS:
        cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and turns errors into one sentence and an exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin are ruinous where cores are shared
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        code = cli.main(arguments, prog_name="prefloop", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        hint = "" if not isinstance(error, click.UsageError) else f" See {_command_of(error)} --help."
        say(f"{error.format_message()}{hint}")
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; what is finished is kept, and the same command with --resume goes on.")
        sys.exit(130)
    except GateError as error:
        say(str(error))
        sys.exit(1)
    except PrefloopError as error:
        say(str(error))
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _command_of(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "prefloop"
