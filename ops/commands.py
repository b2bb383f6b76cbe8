"""The commands by their names, each loaded when it is asked for: loading all takes longer than most of them run."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from typer.main import get_group

from ops.application import new_app


class Commands(Mapping[str, Any]):
    """What a command group of the library looks commands up in."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        """`modules` says where each command is: as the noun `app`, or added by `register`."""
        self._modules = dict(modules)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - the library keeps its command class to itself
        """Raises KeyError for a name that is none."""
        module = self._modules[name]
        if name not in self._loaded:
            self._loaded[name] = _command(name, module)
        return self._loaded[name]

    # The library's own way for both would load the command, and take a KeyError on the way for a name that is none.
    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as above
        """The command, or `default` for a name that is none; whatever keeps one from being loaded is raised."""
        if name not in self._modules:
            return default
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _command(name: str, module_name: str) -> Any:  # noqa: ANN401
    module = import_module(module_name)
    alone = new_app("")
    if hasattr(module, "app"):
        alone.add_typer(module.app, name=name)
    else:
        module.register(alone)
    return get_group(alone).commands[name]
