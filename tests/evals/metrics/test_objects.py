"""CHAIR's objects: its rules by hand, and its counts on real captions against a second, plainer implementation."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolforge.errors import DataError
from smolforge.evals.measures import scores
from smolforge.evals.metrics import nouns
from smolforge.evals.metrics.nouns import plurals, singulars, words
from smolforge.evals.metrics.objects import LISTED, OBJECTS, PAIRS, chair_measures, chair_sums, mentions, objects

RULES = {
    "A hot dog and a dog.": ["hot dog", "dog"],
    "Hot dogs, dogs": ["hot dog", "dog"],
    "a hot, dog": ["dog"],
    "baby elephants with an adult": ["elephant", "person"],
    "an adult bear and a baby": ["bear", "person"],
    "a passenger jet and a passenger": ["airplane", "person"],
    "a passenger train at the train tracks": ["train"],
    "the toilet seat": ["toilet"],
    "the seat of the toilet, and a chair": ["toilet", "chair"],
    "the seat": ["chair"],
    "a bow tie": ["tie"],
    "two wine glasses and a glass": ["wine glass"],
    "sports balls": ["sports ball"],
    "a dining table": ["dining table"],
    "home plate": [],
    "a baby cub and a baby animal": [],
    "men's skis, a woman's ski": ["person", "skis", "person", "skis"],
    "teddy-bear; cat/dog": [],
    "It is 5 o'clock.": [],
    "MEN AND A MAN": ["person", "person"],
    "motor bikes, cheesecake, iPhones": ["motorcycle", "cake", "cell phone"],
    "**Table:** a vase... chairs--and couches": ["dining table", "vase", "chair", "couch"],
    "She is seated, skiing past a sitting man": ["person"],
}
IRREGULAR = {
    "people": "person", "men": "person", "women": "person", "children": "person", "grandchildren": "person",
    "policemen": "person", "ladies": "person", "thieves": "person", "knives": "knife",
    "pocketknives": "knife", "geese": "bird", "ostriches": "bird",
    "finches": "bird", "mice": "mouse", "oxen": "cow", "calves": "cow", "buffaloes": "cow", "buffalos": "cow", "sheep": "sheep",
    "buses": "bus", "busses": "bus", "minibuses": "bus", "bus": "bus", "benches": "bench", "couches": "couch", "skis": "skis",
    "scissors": "scissors", "sandwiches": "sandwich", "toothbrushes": "toothbrush", "puppies": "dog", "ponies": "horse",
    "trolleys": "bus", "donkeys": None, "bases": None, "cattle": "cow", "taxis": "car", "taxies": "car", "vases": "vase",
    "tvs": "tv", "lorries": "truck", "ferries": "boat", "giraffes": "giraffe", "glasses": None, "ties": "tie",
}  # fmt: skip


@pytest.mark.parametrize(("caption", "named"), RULES.items())
def test_rules(caption, named):
    assert [mention.object for mention in mentions(caption)] == named


@pytest.mark.parametrize(("word", "named"), IRREGULAR.items())
def test_plurals_of_the_vocabulary(word, named):
    assert [mention.object for mention in mentions(f"two {word} there")] == ([named] if named else [])


def test_the_list_has_80_objects_and_every_word_finds_its_own():
    assert len(LISTED) == 80
    assert len(OBJECTS) == 403
    for word, name in OBJECTS.items():
        if word == "stove top oven":  # three words: the paper's pairs never make one of them
            assert [mention.object for mention in mentions(word)] == ["oven", "oven"]
        else:
            assert [mention.object for mention in mentions(f"a {word}.")] == [name], word
            plural = min(plurals(word), key=len)
            assert [mention.object for mention in mentions(f"some {plural}.")] == [name], plural


def test_places_are_the_words_of_the_caption():
    caption = "A  baby bird on two Wine Glasses."
    assert [(caption[one.start : one.end], one.word) for one in mentions(caption)] == [
        ("baby bird", "bird"),
        ("Wine Glasses", "wine glass"),
    ]


@given(st.text(alphabet="ab hotdg's-,.?é İ\n", max_size=40))
def test_words_are_where_they_are_said_to_be(text):
    found = words(text)
    assert all(text[word.start : word.end] == word.text for word in found)
    assert "".join(word.text for word in found) == "".join(text.split())
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_sums_by_hand():
    """Six mentions, of which the dogs and the ball are not there; three of four objects are named, the man and the boy as one."""
    caption = "A man and a boy with dogs, a dog, a ball and a frisbee by the car."
    sums, marks = chair_sums(caption, {"person", "frisbee", "car", "kite"})
    assert sums == {
        "captions": 1, "naming": 1, "hallucinating": 1, "mentions": 7, "hallucinated": 3, "objects": 4, "covered": 3,
    }  # fmt: skip
    assert [(caption[start:end], kind) for start, end, kind in marks if kind == "hallucinated"] == [
        ("dogs", "hallucinated"),
        ("dog", "hallucinated"),
        ("ball", "hallucinated"),
    ]
    once, _ = chair_sums(caption, {"person", "frisbee", "car", "kite"}, once=True)
    assert (once["mentions"], once["hallucinated"]) == (6, 2)  # "dog" is one word, "man" and "boy" are two


def test_nothing_named():
    sums, marks = chair_sums("It is dark.", {"cat"})
    assert (sums["naming"], sums["hallucinating"], sums["mentions"], sums["objects"]) == (0, 0, 0, 1)
    assert marks == ()


def test_measures_by_hand():
    """Two of three captions name an object, and one of their three mentions is not there; two of three objects are named."""
    captions = ["A cat and a dog.", "It is dark.", "Cats."]
    sums = [chair_sums(caption, there)[0] for caption, there in zip(captions, ({"cat"}, {"bed"}, {"cat"}))]
    for count, share in (("captions", 1 / 3), ("naming", 1 / 2)):
        measures = chair_measures("captions", count=count, needs="mentions")
        found = {name: score.value for name, score in scores(sums, measures).items() if score is not None}
        assert found == pytest.approx({"CHAIRi": 1 / 3, "CHAIRs": share, "recall": 2 / 3})
        assert {measure.needs for measure in measures.values()} == {"mentions"}


def test_names_of_annotations():
    assert objects({"tv", "Man", "cell phone"}) == {"tv", "person", "cell phone"}
    with pytest.raises(DataError, match="'street sign'"):
        objects({"tv", "street sign"})
    with pytest.raises(DataError, match=r"^photos\.jsonl, row 3: no object of MSCOCO's: 'street sign'; name"):
        objects({"street sign"}, "photos.jsonl, row 3")


def plainly(caption: str) -> list[str]:
    """CHAIR's algorithm once more, by words alone: each word is cut until the list knows it, then pairs, then the seat rule."""
    known = {part for word in [*OBJECTS, *PAIRS] for part in word.split()}
    special = {"men": "man", "women": "woman", "children": "child", "people": "people", "knives": "knife", "mice": "mouse"}
    read = []
    for word in re.findall(r"[\w-]+|[^\w\s]", caption.lower()):
        tries = [word, special.get(word, ""), word[:-1], word[:-2], word[:-3] + "y"]
        plain = [one for one in tries if one in known and (one == word or word.endswith("s") or word in special)]
        read.append(plain[0] if plain else word)
    text = " " + "  ".join(read) + " "  # two spaces between words, so that every word has its own
    for pair, word in PAIRS.items():
        text = text.replace(f" {pair.replace(' ', '  ')} ", f" {word.replace(' ', '_')} ")
    read = [word.replace("_", " ") for word in text.split()]
    if "toilet" in read:
        read = [word for word in read if word != "seat"]
    return [OBJECTS[word] for word in read if word in OBJECTS]


def test_on_real_captions(shared: Path):
    """425 captions of 85 photos. Measured beside it with the reference's code: of these captions the objects of 409 are those by
    `pattern`'s singularize (688 mentions: it misses every bus), of 421 those by WordNet's nouns (700: it misses "men"), of 416
    those by WordNet's nouns and verbs as lmms-eval takes them (705)."""
    photos = [
        photo
        for split in ("train", "val")
        for photo in json.loads((shared / f"coco_mini/annotations_{split}2017.json").read_text())
    ]
    captions = [caption for photo in photos for caption in photo["captions"]]
    assert len(captions) == 425
    for caption in captions:
        assert [mention.object for mention in mentions(caption)] == plainly(caption), caption
    assert sum(len(mentions(caption)) for caption in captions) == 704
    total: dict[str, float] = {}
    for photo in photos:
        if photo["objects"] is not None:
            truth = {box["category"] for box in photo["objects"]}
            for caption in photo["captions"]:
                for name, count in chair_sums(caption, truth)[0].items():
                    total[name] = total.get(name, 0) + count
    # The reference's code gives 0.0751, 0.1193 and 0.3532 with WordNet's nouns, without the four captions of "men".
    assert total["hallucinated"] / total["mentions"] == pytest.approx(0.0745, abs=5e-5)
    assert total["hallucinating"] / total["captions"] == pytest.approx(0.1193, abs=5e-5)
    assert total["covered"] / total["objects"] == pytest.approx(0.3557, abs=5e-5)


def test_doubtful_words_need_an_article():
    if nouns.language() is not None:
        pytest.skip("spaCy decides here what a noun is")
    known = {word: word for word in ("can", "dog", "light", "TV")} | singulars(["can", "dog", "light"])
    read = [noun for _, _, noun in nouns.nouns("Dogs can see the light of a TV and light cans; a can", known)]
    assert read == ["dog", "light", "TV", "can"]
