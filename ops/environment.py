"""Settings for commands, and the refusals of the production profile that concern what a command connects to."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from ops.failures import refused, usage_error
from schemas.codec import BlockingCodec
from streams.settings import Settings, load_settings

KAFKA: Final = "KAFKA_"
DATABASE: Final = "DATABASE_URL"


def settings_for(*connections: str) -> Settings:
    """The settings, if their profile allows to connect to these (KAFKA, DATABASE).

    Raises SettingsInvalid, CommandFailed (refused) naming every problem.
    """
    settings = load_settings()
    found = [problem for problem in settings.problems() if problem.startswith(connections)] if connections else []
    if found:
        raise refused(
            "the production profile forbids this connection",
            why=" ".join(found),
            next_step="correct the settings; on a laptop use PAYOUTS_PROFILE=test",
        )
    return settings


def registry_of(settings: Settings) -> str | None:
    """The registry's address, None when there is none. Raises CommandFailed (usage) for one that cannot be right."""
    url = settings.schema_registry_url or None
    if url is not None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        except ValueError:
            usable = False
        if not usable:
            raise usage_error(
                "SCHEMA_REGISTRY_URL cannot be used",
                why="it must begin with http:// or https://, name a host, and hold no password",
                next_step="correct it, or unset it: schema ids then come from the pinned table",
            )
    return url


def codec_for(settings: Settings) -> BlockingCodec:
    """The codec of this cluster, with its registry if there is one; close it, or use `with`."""
    return BlockingCodec(registry_of(settings), topic_prefix=settings.payouts_topic_prefix)


def secret_values(settings: Settings) -> Iterator[str]:
    """Every secret among the settings, for redaction."""
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            secret = value.get_secret_value()
            yield secret
            if password := _password_of(secret):
                # An address is longer than what it hides; a driver may repeat the password alone, decoded or not.
                yield password
                yield unquote(password)


def _password_of(address: str) -> str | None:
    try:
        return urlsplit(address).password
    except ValueError:
        return None


def policies_file(settings: Settings, name: str) -> Path | None:
    """A policy file of the configured directory, or None for the shipped one."""
    directory = settings.payouts_policies_directory
    return None if directory is None else directory / name


def operator_name() -> str | None:
    """Who types, as the system knows it."""
    return os.environ.get("PAYOUTS_OPERATOR") or os.environ.get("USER") or None
