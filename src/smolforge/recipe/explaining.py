"""What is wrong with a recipe, in one line of our own words: pydantic's speak of tuples and dictionaries, which no recipe has."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic_core import ErrorDetails

from smolforge.recipe.adapters import METHODS
from smolforge.recipe.base import Section
from smolforge.recipe.whole import Recipe
from smolforge.wording import did_you_mean

QUOTE = "'"
TAGS = ("kind", "method")  # what tells the branches of a union apart
# pydantic puts the tried branch of a union into an error's path: behind these keys a section's kind, elsewhere a type
TAGGED: dict[int | str, tuple[str, ...]] = {"adapters": METHODS, "objective": ("sft", "dpo"), "picture": ("crop", "noise")}
BRANCHES = ("float", "constrained-float", "bool", "constrained-int", "str")
SHOULD = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false", "bool_parsing": "true or false",
    "string_type": "text", "path_type": "a path", "dict_type": "a mapping",
}  # fmt: skip


def explain(error: ErrorDetails) -> str:
    """One line about one of pydantic's errors: the key, what is wrong, and what to write where that is known."""
    loc = error["loc"]
    place = ".".join(str(part) for before, part in zip((None, *loc), loc) if not _is_branch(before, part))
    if error["type"] == "extra_forbidden":
        known = list(_meant(loc[:-1])[0].model_fields)
        hint = did_you_mean(str(loc[-1]), known, cutoff=0.5) or f"known here: {', '.join(known)}"
        return f"unknown key {place}; {hint}"
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "union_tag_not_found":
        tag = error["ctx"]["discriminator"].strip(QUOTE)
        near = difflib.get_close_matches(tag, map(str, error["input"]), n=1, cutoff=0.5)
        return f"unknown key {place}.{near[0]}; did you mean {tag}?" if near else f"{place}.{tag} is missing"
    if error["type"] == "union_tag_invalid":
        kind, told, names = (str(error["ctx"][key]) for key in ("discriminator", "tag", "expected_tags"))
        meant = did_you_mean(told, names.replace(QUOTE, "").split(", "), cutoff=0.6)
        return "; ".join(filter(None, (f"{place}.{kind.strip(QUOTE)} is one of {names} (given: {told!r})", meant)))
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{place}: a section is a mapping of settings, not {_called(error['input'])}; {_section_for(error, place)}"
    if error["type"] == "tuple_type":
        return f"{place}: {_list_for(error, place)}"
    if error["type"] == "too_short":
        least, count = error["ctx"]["min_length"], error["ctx"]["actual_length"]
        return f"{place}: a list of at least {least}, this one has {count}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if error["type"] in SHOULD:
        message = f"should be {SHOULD[error['type']]}"
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = error["ctx"]["expected"].replace(" or ", ", ").replace(QUOTE, "").split(", ")
        if meant := did_you_mean(error["input"], known, cutoff=0.6):
            message = f"{message}; {meant}"
    given = "" if isinstance(error["input"], dict) else f" (given: {'null' if error['input'] is None else repr(error['input'])})"
    return f"{place}: {message}{given}" if place else message


# --- what to write instead ------------------------------------------------------------------------------------------


def _section_for(error: ErrorDetails, place: str) -> str:
    """How the section is written that a word, a number or nothing stands for."""
    sections, value = _meant(error["loc"]), error["input"]
    kinds = {name: tag for section in sections for tag in TAGS for name in _names(section, tag)}
    if isinstance(value, str) and (near := difflib.get_close_matches(value, kinds, n=1)):
        written = f"{place}: {{{kinds[near[0]]}: {near[0]}}}"
        return f"write {written}" if near[0] == value else f"did you mean {written}?"
    if len(sections) > 1:
        return f"write {place}: {{{next(iter(kinds.values()))}: ...}}, of {', '.join(kinds)}"
    if written := _of_one(sections[0], value):
        return f"write {place}: {written}"
    return f"its settings are {', '.join(sections[0].model_fields)}"


def _list_for(error: ErrorDetails, place: str) -> str:
    """What a list should be, and how it is written with the one thing that was given."""
    annotation, value = _annotation_at(error["loc"]), error["input"]
    sections = list(_sections_in(annotation))
    if sections:
        inner = "{...}" if isinstance(value, dict) else _of_one(sections[0], value)
    elif (count := _length(annotation)) is not None:
        return f"a list of {count}, not {_called(value)}"
    else:
        inner = _plain(value)
    return f"a list, not {_called(value)}; write {place}: [{inner}]"


def _of_one(section: type[Section], value: Any) -> str:
    """A section with the one setting that it must have, or that a word names; empty where neither is so."""
    if isinstance(value, str) and value in section.model_fields:
        return f"{{{value}: ...}}"
    required = [name for name, field in section.model_fields.items() if field.is_required()]
    return f"{{{required[0]}: {_plain(value)}}}" if len(required) == 1 else ""


def _plain(value: Any) -> str:
    """A value as a recipe writes it, where it is a plain word or number."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else "..."


def _called(value: Any) -> str:
    """What was given, in a recipe's words.

    >>> _called("lora"), _called(None), _called(True), _called([1]), _called({}), _called(8)
    ("'lora'", 'null', 'true', 'a list', 'a mapping', '8')
    """
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)


# --- where in a recipe ----------------------------------------------------------------------------------------------


def _is_branch(before: int | str | None, part: int | str) -> bool:
    """Whether a part of an error's path is no key of the recipe but the branch that was tried."""
    if not isinstance(part, str):
        return False
    if part in TAGGED.get(before or "", ()):
        return True
    return part in BRANCHES or part.endswith("Section") or part.startswith(("literal[", "dict[", "tuple["))


def _meant(path: tuple[int | str, ...]) -> list[type[Section]]:
    """The section at a path, or the several kinds that it may be of."""
    sections: list[type[Section]] = [Recipe]
    for part, tag in zip(path, (*path[1:], None)):
        field = next((one.model_fields[part] for one in sections if isinstance(part, str) and part in one.model_fields), None)
        if field is not None and (found := list(_sections_in(field.annotation))):
            told = [one for one in found if any(tag in _names(one, key) for key in TAGS)]
            sections = told or found
    return sections


def _annotation_at(path: tuple[int | str, ...]) -> Any:
    """Type of the setting that a path ends in."""
    keys = [number for number, part in enumerate(path) if not _is_branch(path[number - 1] if number else None, part)]
    last = path[keys[-1]]
    return next(one.model_fields[last].annotation for one in _meant(path[: keys[-1]]) if last in one.model_fields)


def _names(section: type[Section], tag: str) -> tuple[str, ...]:
    """The kinds that a section stands for."""
    return get_args(section.model_fields[tag].annotation) if tag in section.model_fields else ()


def _length(annotation: Any) -> int | None:
    """Length of a list that always has the same; None of any other."""
    inner = get_args(annotation)
    return len(inner) if get_origin(annotation) is tuple and Ellipsis not in inner else None


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple, Annotated):
        for inner in get_args(annotation):
            yield from _sections_in(inner)
