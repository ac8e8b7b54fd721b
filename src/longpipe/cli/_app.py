"""The typer application; each verb's file adds itself with `@app.command()`."""

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from longpipe.errors import LongpipeError


class _Verbs(TyperGroup):
    """Turns every error that longpipe raises on purpose into its text and exit status 1."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except LongpipeError as error:
            Console(stderr=True).print(Text(f"error: {error}", style="red"), soft_wrap=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="longpipe",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
