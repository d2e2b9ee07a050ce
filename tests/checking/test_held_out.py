"""No shipped recipe measures itself on rows that it trains on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolforge.checking.overlap import shared_rows
from smolforge.data.sources import tables
from smolforge.data.sources.catalog import SOURCES, name_of
from smolforge.data.sources.llava import VIDEO
from smolforge.data.sources.tables import open_source
from smolforge.recipe import DataSection, load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
ROWS = 1000  # of each table: more than any recipe holds out
KINDS = ("cap", "oe", "mc")  # how LLaVA-Video-178K's files call captions, open questions, multiple choice


def annotations(source: str) -> list[str]:
    """Files of annotations of a named source, laid out as published."""
    if source == "llava_video_178k":
        return [f"{config}/{config}_{kind}_processed.json" for config in VIDEO for kind in KINDS]
    assert SOURCES[source].annotations == ("*.json",), f"lay out the files of {source} here"
    return ["rows.json"]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A place where every source that is held out has rows; the Hub's are numbers, as no row is looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "hub_table", lambda hub, name, split, revision=None: range(ROWS))

    def lay_out(section: DataSection) -> None:
        known = name_of(section.source)
        if known is None:
            listed = Path(section.source) if section.source.endswith(".jsonl") else Path(section.source, "captions.jsonl")
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text('{"image": "a.jpg", "captions": ["A dog."]}\n' * ROWS)
        elif SOURCES[known].annotations:
            assert section.dir is not None
            for name in annotations(known):
                file = section.dir / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps([{"id": n} for n in range(ROWS)]))

    return lay_out


def shared(held: DataSection, trained: DataSection) -> int:
    return shared_rows(held, open_source(held), trained, open_source(trained))


def same_source(held: DataSection, trained: DataSection) -> bool:
    return (name_of(held.source) or held.source) == (name_of(trained.source) or trained.source)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_no_shipped_recipe_holds_out_rows_it_trains_on(file, published):
    recipe = load_recipe(file)
    assert recipe.eval.data, "every shipped recipe measures on held-out rows"
    for held in recipe.eval.data:
        published(held)
        for trained in recipe.data:
            if same_source(held, trained):
                assert shared(held, trained) == 0, f"{held} and {trained}"


def test_rows_that_are_trained_on_would_be_found(published):
    """The last 400 of the 1,000 open questions of one configuration, out of all: every one of them."""
    recipe = load_recipe(next(file for file in RECIPES if file.stem == "smolvlm2-256m-video"))
    (held,) = recipe.eval.data
    published(held)
    everything = DataSection(source=held.source, name="all", split="caption+open_ended+multi_choice", dir=held.dir)
    assert shared(held, everything) == 400


def test_no_video_of_a_held_out_configuration_is_trained_on():
    """Captions, open questions and choices of a configuration are about the same videos, so it is left out as a whole."""
    held = 0
    for recipe in map(load_recipe, RECIPES):
        trained = [names(one) for one in recipe.data if one.source == "llava_video_178k"]
        for one in recipe.eval.data:
            if one.source == "llava_video_178k":
                held += 1
                assert trained
                assert names(one) <= set(VIDEO)
                assert not any("all" in theirs or names(one) & theirs for theirs in trained)
    assert held == 4


def names(section: DataSection) -> set[str]:
    return {section.name} if isinstance(section.name, str) else set(section.name or ())
