"""`payouts keys create`: the processor's own keys."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ops.application import ending, new_app
from ops.exit_codes import ExitCode
from ops.failures import refused
from ops.options import OutputOption
from ops.output import Column, Output, emit_rows, message
from streams.keys import SECRET_FILES, KeysUnusable, create_keys

COLUMNS = (Column("file", "FILE"), Column("mode", "MODE"), Column("secret", "SECRET"))

app = new_app("The keys that seal what the processor stores and open what originators send.")


@app.command(
    "create",
    epilog=ending(
        "payouts keys create keys",
        "payouts keys create /etc/payouts/keys --output json",
        codes=(ExitCode.REFUSED,),
    ),
)
def create(
    directory: Annotated[Path, typer.Argument(help="Where the keys go; made if it does not exist.", file_okay=False)],
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a fresh set of keys, readable by their owner only. Existing keys are never replaced.

    Give party_public.jwks.json to the originators: they encrypt cards and personal data to it. Keep
    dead_letter_private.jwk.json away from the workers: only whoever opens dead letters needs it.
    """
    try:
        create_keys(directory)
    except KeysUnusable as error:
        raise refused(str(error), next_step="choose another directory") from None
    except OSError as error:
        raise refused(
            f"the keys cannot be written to {directory}",
            why=error.strerror or type(error).__name__,
            next_step="choose a directory that you may write to",
        ) from None
    emit_rows([_described(path) for path in sorted(directory.iterdir())], COLUMNS, output)
    message("Back these up apart from the database: what they sealed cannot be read without them.")


def _described(path: Path) -> dict[str, Any]:
    mode = f"{path.stat().st_mode & 0o777:03o}"
    return {"file": str(path), "mode": mode, "secret": path.name in SECRET_FILES}
