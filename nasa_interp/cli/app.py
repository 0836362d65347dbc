"""The program that the commands are registered with."""

import typer

app = typer.Typer(
    name="nasa-interp",
    help="Find and cure the bias of language models toward No or Yes, head by head.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
