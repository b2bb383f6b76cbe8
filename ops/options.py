"""Options that several commands share, so that they mean the same everywhere."""

from typing import Annotated

import typer

from ops.output import Output

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How data is printed on stdout.")]
