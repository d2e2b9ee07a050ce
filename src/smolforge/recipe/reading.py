"""From YAML and key=value overrides to a recipe; an unknown key is an error that names its nearest neighbour."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from smolforge.errors import RecipeError
from smolforge.recipe.adapters import METHODS
from smolforge.recipe.base import Section
from smolforge.recipe.whole import Recipe

QUOTE = "'"
TAGS = ("kind", "method")  # what tells the branches of a union apart
UNION_TAGS = ("float", "constrained-float", "bool", "constrained-int", "sft", "dpo", "crop", "noise", *METHODS)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML file, apply `key=value` overrides, validate.

    Raises:
        RecipeError: unreadable file, unknown key, wrong type or options that exclude each other.
    """
    file = Path(path)
    if not file.is_file():
        raise RecipeError("no such recipe", where=file, mend="check the path; recipes/ holds examples")
    try:
        tree = _read_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
        raise RecipeError(_explain(errors[0]), where=where) from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2's truth values: `on`, `off`, `yes` and `no` are words, as in `adapters: {on: [text]}`."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        letter: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RecipeError("an override reads key=value", where=override, mend="for example run.steps=100")
    try:
        value = _read_yaml(text)
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


def _explain(error: ErrorDetails) -> str:
    place = ".".join(str(part) for part in error["loc"] if not _is_union_tag(part))
    if error["type"] == "extra_forbidden":
        known = _fields_at(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {place}; {hint}"
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "union_tag_not_found":
        tag = error["ctx"]["discriminator"].strip("'")
        near = difflib.get_close_matches(tag, map(str, error["input"]), n=1, cutoff=0.5)
        return f"unknown key {place}.{near[0]}; did you mean {tag}?" if near else f"{place}.{tag} is missing"
    if error["type"] == "union_tag_invalid":
        kind, told, names = (str(error["ctx"][key]) for key in ("discriminator", "tag", "expected_tags"))
        meant = difflib.get_close_matches(told, names.replace("'", "").split(", "), n=1)
        hint = f"; did you mean {meant[0]}?" if meant else ""
        return f"{place}.{kind.strip(QUOTE)} is one of {names} (given: {told!r}){hint}"
    if error["type"] == "model_type":
        return f"{place}: a section is a mapping of settings, not {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        if near := difflib.get_close_matches(error["input"], known, n=1):
            message = f"{message}; did you mean {near[0]}?"
    given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
    return f"{place}: {message}{given}" if place else message


def _is_union_tag(part: int | str) -> bool:
    """pydantic puts the tried branch of a union (`float`, `RatesSection`, a section's kind) into an error's path."""
    return part in UNION_TAGS or (isinstance(part, str) and (part.endswith("Section") or part.startswith(("literal[", "dict["))))


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    section: type[Section] = Recipe
    for part, tag in zip(path, (*path[1:], None)):
        if isinstance(part, str) and part in section.model_fields:
            found = list(_sections_in(section.model_fields[part].annotation))
            branches = ((one, one.model_fields[key]) for one in found for key in TAGS if key in one.model_fields)
            meant = (one for one, field in branches if tag in get_args(field.annotation))
            section = next(meant, found[0] if found else section)
    return list(section.model_fields)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple, Annotated):
        for inner in get_args(annotation):
            yield from _sections_in(inner)
