"""From YAML and key=value overrides to a recipe; an unknown key is an error that names its nearest neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from smolforge.errors import RecipeError
from smolforge.recipe.explaining import explain
from smolforge.recipe.whole import Recipe


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML file, apply `key=value` overrides, validate.

    Raises:
        RecipeError: unreadable file, unknown key, wrong type or options that exclude each other.
    """
    file = Path(path)
    if not file.is_file():
        raise RecipeError("no such recipe", where=file, mend="check the path; recipes/ holds examples")
    try:
        content = file.read_bytes()
        tree = _read_yaml(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"line {line} is not UTF-8", where=file, mend="save it as UTF-8") from error
    except _Twice as error:
        raise RecipeError(str(error), where=file, mend="keep one of them") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"not valid YAML ({error})", where=file, mend="mend the line it names") from error
    return parse_recipe(tree, overrides, where=str(file))


def parse_recipe(tree: Any, overrides: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """Validate a mapping as a recipe.

    Raises:
        RecipeError: as `load_recipe`.
    """
    if not isinstance(tree, dict):
        raise RecipeError("a recipe is a mapping of sections", where=where, mend="start from one in recipes/")
    for override in overrides:
        _apply_override(tree, override)
    _last_word(tree, overrides)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        # a misspelling explains the rest, and of a union's branches the one that got furthest is the one that was meant
        errors = sorted(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
        raise RecipeError(explain(errors[0]), where=where) from error


class _Twice(yaml.YAMLError):
    """A key that stands twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's truth values: `on`, `off`, `yes` and `no` are words, as in `adapters: {on: [text]}`. No key stands twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        letter: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """PyYAML lets the last of two keys of one name win."""
        node = super().compose_mapping_node(anchor)
        first: dict[str, yaml.ScalarNode] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            before = first.setdefault(key.value, key)
            if before is not key:
                one, other = before.start_mark.line + 1, key.start_mark.line + 1
                where = f"lines {one} and {other}" if one != other else f"line {one}"
                raise _Twice(f"{key.value} stands twice, {where}")
        return node


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RecipeError("an override reads key=value", where=override, mend="for example run.steps=100")
    try:
        value = _read_yaml(text)
    except _Twice as error:
        raise RecipeError(str(error), where=override, mend="keep one of them") from error
    except yaml.YAMLError as error:
        raise RecipeError("the value is not valid YAML", where=override, mend="quote it") from error
    *path, last = key.split(".")
    node: Any = tree
    for name in path:
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict):
            if not isinstance(node.get(name), dict | list):
                node[name] = {}
            node = node[name]
        else:
            raise RecipeError(f"there is no {name} to set", where=override, mend="check the key's path")
    if isinstance(node, list):
        if not (last.isdigit() and int(last) < len(node)):
            raise RecipeError(f"the list has {len(node)} entries", where=override, mend="count from 0")
        node[int(last)] = value
    else:
        node[last] = value


def _last_word(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Of two ways to say how long a run is, what was said on the command line replaces what the file says."""
    said = {override.partition("=")[0] for override in overrides} & {"run.steps", "run.epochs"}
    if len(said) == 1 and isinstance(tree.get("run"), dict):
        tree["run"].pop({"run.steps": "epochs", "run.epochs": "steps"}[said.pop()], None)
