"""YAML whose mappings name each key once: the standard loader silently lets the last of two equal keys win."""

from typing import Any

import yaml


class RepeatedKey(ValueError):
    """A key stands twice in one mapping; the text says in which line the mapping begins."""


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(set(keys)) != len(keys):
            raise RepeatedKey(f"a key stands twice in the mapping at line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def load_unique(text: str) -> object:
    """The document. Raises RepeatedKey, yaml.YAMLError, ValueError, TypeError or RecursionError."""
    document: object = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    return document
