"""Benchmarks of captions: questions from rows, and scores by hand, by the originals' code or by a second count."""

from __future__ import annotations

import base64
import io
import json
import math
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from smolforge.data.media import open_picture
from smolforge.data.sources.scenes import parse_caption
from smolforge.errors import DataError
from smolforge.evals.benchmark import PROTOCOLS, Benchmark, Given, Origin, Question, Row
from smolforge.evals.benchmarks import amber, chair, coco_caption, mmhal, object_halbench, scenes
from smolforge.evals.measures import scores
from smolforge.evals.metrics import meteor, nouns
from smolforge.evals.metrics.objects import OBJECTS
from smolforge.evals.photos import photos
from smolforge.evals.scenes import scene_sums

ALL = {
    "coco_caption": coco_caption.BENCHMARK, "chair": chair.BENCHMARK, "amber": amber.BENCHMARK,
    "object_halbench": object_halbench.BENCHMARK, "mmhal": mmhal.BENCHMARK, "scenes": scenes.BENCHMARK,
}  # fmt: skip


def asked(benchmark: Benchmark, rows: Sequence[Row], *, base: Path | None = None, protocol="lmms-eval") -> list[Question]:
    for row in rows:
        assert set(benchmark.columns) <= set(row)
    return [benchmark.question(row, protocol, Origin(name="b", base=base, number=number)) for number, row in enumerate(rows)]


def values(benchmark: Benchmark, rows: Sequence[Row], texts: Sequence[str], *, tokens: int = 7) -> dict[str, float | None]:
    givens = [Given(text=text, tokens=tokens) for text in texts]
    scored = benchmark.score(asked(benchmark, rows), givens)
    found = scores([one.sums for one in scored], benchmark.measures)
    return {name: None if score is None else score.value for name, score in found.items()}


def text_of(question: Question) -> str:
    (message,) = question.record.messages
    return "".join(part for part in message.content if isinstance(part, str))


def picture() -> Image.Image:
    return Image.new("RGB", (8, 8), (200, 10, 10))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_questions_are_whole(name, protocol):
    rows = {
        "coco_caption": {"image": picture(), "answer": ["A cat."], "question_id": "COCO_val2014_000000000042.jpg", "id": 0},
        "chair": {"image": picture(), "gt_object": ["dining table", "cat"], "question_id": "42"},
        "amber": {"image": picture(), "truth": ["sky"], "hallu": ["cloud"], "question_id": 1},
        "object_halbench": {"image": picture(), "question": "Describe it.", "truth": ["cat"], "image_id": 1},
        "mmhal": {
            "image": picture(), "question_type": "counting", "image_content": ["Cat"], "question": "How many?",
            "gt_answer": "One.",
        },
        "scenes": scenes.rows(Path())[0],
    }  # fmt: skip
    (question,) = asked(ALL[name], [rows[name]], protocol=protocol)
    json.dumps(question.facts)
    assert question.record.responses == ()
    assert len(question.record.media) == 1
    assert text_of(question)
    assert question.max_new_tokens > 0


# --- CHAIR -------------------------------------------------------------------------------------------------------


def test_chair_by_hand():
    """Five mentions, one of them invented, in one of three captions; two of five objects (one cat a photo) are named."""
    rows = [
        {"image": "1.jpg", "gt_object": ["cat", "person"], "question_id": 1},
        {"image": "2.jpg", "gt_object": ["cat", "bed"], "question_id": 2},
        {"image": "3.jpg", "gt_object": ["bus"], "question_id": 3},
    ]
    found = values(chair.BENCHMARK, rows, ["A cat, cats and a kitten.", "A dog on a bed.", "Nothing much."])
    assert found == {
        "CHAIRi": 1 / 5, "CHAIRs": 1 / 3, "recall": 2 / 5, "objects a caption": 5 / 3, "length": 7.0,
        "truth from captions only": 0.0,
    }  # fmt: skip


def test_chair_cannot_be_said_where_nothing_is_named():
    found = values(chair.BENCHMARK, [{"image": "1.jpg", "gt_object": ["cat"]}], ["It is dark."])
    assert found["CHAIRi"] is None
    assert (found["CHAIRs"], found["recall"]) == (0.0, 0.0)


def test_chair_says_which_name_it_does_not_know():
    with pytest.raises(DataError, match="'unicorn'"):
        asked(chair.BENCHMARK, [{"image": "1.jpg", "gt_object": ["unicorn"]}])


def test_chair_of_a_folder(tmp_path):
    rows = [
        {"file": "a.jpg", "image_id": 1, "captions": ["A man."], "objects": [{"category": "dog"}, {"category": "dog"}]},
        {"file_name": "b.jpg", "captions": ["A couch."], "objects": None},
        {"image": "c.jpg", "caption": "Trees.", "instances": []},
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (tmp_path / "other.json").write_text('{"not": "rows"}')
    read = chair.rows(tmp_path)
    assert [(row["question_id"], row["gt_object"], row["annotated"]) for row in read] == [
        ("1", ["dog", "person"], True),
        ("b.jpg", ["couch"], False),
        ("c.jpg", [], True),
    ]
    assert values(chair.BENCHMARK, read, ["", "", ""])["truth from captions only"] == pytest.approx(1 / 3)
    (question, *_) = asked(chair.BENCHMARK, read, base=tmp_path)
    assert question.record.media[0].ref == tmp_path / "a.jpg"


def test_files_with_the_hubs_columns_are_read_as_they_are(tmp_path):
    """As the Hub stores them, or as JSON Lines; a single file is enough."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"image": "a.jpg", "gt_object": ["cat"], "question_id": 5}))
    read = chair.BENCHMARK.rows(file)
    assert [(one.id, one.facts["objects"]) for one in asked(chair.BENCHMARK, [read[0]])] == [("5", ["cat"])]
    folder = tmp_path / "stored"
    Dataset.from_list([{"image": "a.jpg", "truth": ["sky"], "hallu": ["dog"], "question_id": 3}]).save_to_disk(folder)
    assert [one.id for one in asked(amber.BENCHMARK, [amber.rows(folder)[0]])] == ["3"]
    file.write_text(json.dumps({"image": "a.jpg", "answer": ["A cat."], "question_id": "x_12.jpg"}))
    assert coco_caption.rows(file)[0]["answer"] == ["A cat."]
    file.write_text(json.dumps(mmhal_row()))
    assert mmhal.rows(file)[0]["gt_answer"] == "Four."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no rows of this benchmark"),
        ("[{", "line 1"),
        ('[{"captions": ["A cat."]}]', r"annotations.json, row 1: a photo without"),
    ],
)
def test_chair_of_a_folder_that_is_none(tmp_path, content, says):
    if content:
        (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(DataError, match=says):
        chair.rows(tmp_path)


def test_chair_of_real_captions(shared):
    """Each photo is described by the next one's first caption; counts are made once more from the words alone."""
    rows = chair.rows(shared / "coco_mini")
    listed = photos(shared / "coco_mini")
    assert len(rows) == 85
    assert sum(not row["annotated"] for row in rows) == 28
    captions = [listed[(number + 1) % 85].captions[0] for number in range(85)]
    said = invented = captions_wrong = there = covered = 0
    for row, caption in zip(rows, captions):
        named = names(caption)
        wrong = [one for one in named if one not in row["gt_object"]]
        said, invented, captions_wrong = said + len(named), invented + len(wrong), captions_wrong + bool(wrong)
        there, covered = there + len(row["gt_object"]), covered + len(set(named) & set(row["gt_object"]))
    found = values(chair.BENCHMARK, rows, captions)
    assert found["CHAIRi"] == pytest.approx(invented / said)
    assert found["CHAIRs"] == pytest.approx(captions_wrong / 85)
    assert found["recall"] == pytest.approx(covered / there)
    assert found["CHAIRi"] > 0.4  # of other photos, most is invented
    own = values(chair.BENCHMARK, rows, [photo.captions[0] for photo in listed])
    assert own["CHAIRi"] == own["CHAIRs"] == 0.0  # what people say of a photo is true of it
    assert own["recall"] > 0.35


def names(caption: str) -> list[str]:
    """Objects of the list in a caption that has no pairs but those below, read from the left."""
    pairs = {
        "fire hydrant": "hydrant", "laptop computer": "laptop", "traffic light": "traffic_light", "wine glass": "wine_glass",
        "passenger jet": "jet", "parking meter": "parking_meter", "cell phone": "phone", "stop sign": "stop_sign",
    }  # fmt: skip
    text = " ".join(caption.lower().replace(",", " , ").replace(".", " . ").split())
    for pair, one in pairs.items():
        text = text.replace(pair, one)
    special = {"men": "man", "women": "woman", "children": "child", "buses": "bus", "sandwiches": "sandwich", "benches": "bench"}
    found = []
    for word in text.split():
        word = special.get(word.replace("'s", ""), word.replace("'s", "")).replace("_", " ")
        one = word if word in OBJECTS else word.removesuffix("s")
        if one in OBJECTS:
            found.append(OBJECTS[one])
    return found


def test_marks_stand_on_the_words():
    (question,) = asked(chair.BENCHMARK, [{"image": "1.jpg", "gt_object": ["cat"]}])
    (scored,) = chair.BENCHMARK.score([question], [Given(text="A cat, a dog.", tokens=6)])
    assert scored.marks == ((2, 5, "right"), (9, 12, "hallucinated"))


# --- COCO-Caption ------------------------------------------------------------------------------------------------


def test_captions_against_the_reference_implementation():
    """pycocoevalcap's BLEU, ROUGE and CIDEr on the same captions, whose tokens are their words."""
    scorers = pytest.importorskip("pycocoevalcap.bleu.bleu"), pytest.importorskip("pycocoevalcap.rouge.rouge")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    references = [
        ["a kitchen with a stove and a white oven", "a white stove in a kitchen"],
        ["two dogs run on the beach", "dogs are running along a beach"],
        ["a man rides a wave on a surfboard"],
    ]
    said = ["a white kitchen with a stove", "two dogs run on grass", "a surfer on a big wave on a board"]
    given = dict(enumerate(references))
    answers = {number: [one] for number, one in enumerate(said)}
    (bleus, _), (rouge, _), (consensus, _) = (
        scorers[0].Bleu(4).compute_score(given, answers, verbose=0),
        scorers[1].Rouge().compute_score(given, answers),
        cider.Cider().compute_score(given, answers),
    )
    rows = [{"image": "1.jpg", "answer": one, "question_id": str(number)} for number, one in enumerate(references)]
    found = values(coco_caption.BENCHMARK, rows, said)
    assert [found[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(bleus, rel=1e-12)
    assert found["ROUGE-L"] == pytest.approx(rouge, rel=1e-12)
    assert found["CIDEr"] == pytest.approx(consensus, rel=1e-12)
    assert found["length"] == 7.0
    if meteor.missing() is None:
        assert found["METEOR"] is not None
        assert 0 < found["METEOR"] < 1
        assert list(coco_caption.BENCHMARK.notes()) == []
    else:
        assert found["METEOR"] is None
        assert list(coco_caption.BENCHMARK.notes()) == [meteor.missing()]


def test_a_photo_without_captions_cannot_be_asked_about():
    with pytest.raises(DataError, match=r"b\[0\]: no reference captions"):
        asked(coco_caption.BENCHMARK, [{"image": "1.jpg", "answer": []}])


def test_captions_of_a_folder(shared):
    rows = coco_caption.rows(shared / "coco_mini")
    assert len(rows) == 85
    assert all(len(row["answer"]) == 5 for row in rows)
    assert len({question.id for question in asked(coco_caption.BENCHMARK, rows)}) == 85


def test_protocols_ask_differently():
    row = {"image": "1.jpg", "answer": ["A cat."]}
    texts = {protocol: text_of(asked(coco_caption.BENCHMARK, [row], protocol=protocol)[0]) for protocol in PROTOCOLS}
    assert texts["lmms-eval"] == "Provide a one-sentence caption for the provided image."
    assert texts["vlmevalkit"].startswith("Please describe this image in general.")


# --- AMBER -------------------------------------------------------------------------------------------------------

# Type, truth, likely inventions, answer.
TOY = [
    ("generative", ["person", "man", "ship", "ship"], ["dog", "bird"], "A man, two boats and a dove on the water."),
    ("generative", ["sky", "forest", "grass"], ["cloud", "sun", "flower"],
     "The sky over trees and bushes; clouds, orange flowers and a sign."),
    ("generative", ["table", "cup"], ["fork"], "It is hard to say."),
    ("generative", ["road", "car"], ["bus"], "A street with cars, their windows and a tree, under a tree."),
    ("discriminative-hallucination", "no", [], "No"),
    ("discriminative-hallucination", "no", [], "Yes"),
    ("discriminative-attribute-state", "yes", [], "No"),
    ("discriminative-attribute-number", "no", [], "No"),
    ("discriminative-attribute-action", "yes", [], "Yes"),
    ("discriminative-relation", "yes", [], "Yes"),
    ("relation", "no", [], "No"),
    ("relation", "yes", [], "No"),
]  # fmt: skip

# Printed by AMBER's inference.py for these rows, in per cent, its nouns given as the words above and its similarity as equality.
# It adds 0.001 to what it divides by, which shows where few are counted (99.7 is 100, and 66.6 is 66.7).
PRINTED = {
    "CHAIR": 37.5, "Cover": 54.5, "Hal": 75.0, "Cog": 28.6,
    "accuracy": 62.5, "precision": 60.0, "recall": 75.0, "F1": 66.7,
    "accuracy, existence": 50.0, "precision, existence": 99.9, "recall, existence": 50.0, "F1, existence": 66.6,
    "accuracy, attribute": 66.6, "precision, attribute": 49.9, "recall, attribute": 99.7, "F1, attribute": 66.5,
    "accuracy, relation": 66.6, "precision, relation": 50.0, "recall, relation": 99.9, "F1, relation": 66.6,
}  # fmt: skip

exact_words = pytest.mark.skipif(nouns.language() is not None, reason="spaCy decides here what a noun is")


def amber_rows() -> list[Row]:
    return [
        {"id": number, "image": "1.jpg", "query": "Is it?", "type": kind, "truth": truth, "hallu": hallu}
        for number, (kind, truth, hallu, _) in enumerate(TOY, start=1)
    ]


@exact_words
def test_amber_against_its_own_code():
    """By hand: 16 nouns, of which dove, water, cloud, flower and twice tree are not there. Of the ships one counts, and the man
    is covered as "person", which comes first and lists him: man 1, ship 1, sky and forest 2, road and car 2 of 11."""
    found = values(amber.BENCHMARK, amber_rows(), [answer for *_, answer in TOY])
    for name, printed in PRINTED.items():
        assert found[name] == pytest.approx(printed / 100, abs=4e-3), name
    assert (found["CHAIR"], found["Cover"], found["Hal"], found["Cog"]) == pytest.approx((6 / 16, 6 / 11, 3 / 4, 2 / 7))
    assert found["AMBER score"] == pytest.approx((1 - 6 / 16 + 2 / 3) / 2)
    assert found["yes-rate"] == 3 / 8
    assert found["one word"] == 1.0
    assert (found["objects a description"], found["length"]) == (4.0, 7.0)


def test_similar_words_count_as_the_same():
    """A noun that is like an object of the photo is right; one like a likely invention is counted as such, too."""

    def alike(one: str, other: str) -> bool:
        return one == other or {one, other} in ({"doll", "dog"}, {"doll", "cat"})

    scored = amber.describe_scored("a doll", ["cat", "sky"], ["bird", "dog"], alike)
    assert scored.sums == {
        "described": 1, "mentions": 1, "hallucinated": 0, "hallucinating": 0, "objects": 2, "covered": 1, "likely": 2,
        "invented": 1,
    }  # fmt: skip
    assert scored.marks == ((2, 6, "right"),)


def test_one_half_of_amber_alone():
    describing = values(amber.BENCHMARK, amber_rows()[:4], [answer for *_, answer in TOY[:4]])
    asking = values(amber.BENCHMARK, amber_rows()[4:], [answer for *_, answer in TOY[4:]])
    assert describing["accuracy"] is describing["AMBER score"] is asking["CHAIR"] is asking["AMBER score"] is None
    assert asking["F1"] == pytest.approx(2 / 3)


def test_answers_in_sentences_are_read():
    rows = amber_rows()[4:7]
    found = values(amber.BENCHMARK, rows, ["No, there is none.", "It is hard to tell.", "YES."])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert (found["yes-rate"], found["one word"]) == (pytest.approx(1 / 3), 0.0)


@pytest.mark.parametrize("place", ["data", "."])
def test_amber_of_a_folder(tmp_path, place):
    data = tmp_path / place
    (data / "query").mkdir(parents=True)
    (tmp_path / "image").mkdir()
    known = [{"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["dog"]}, {"id": 2, "type": "relation", "truth": "yes"}]
    (data / "annotations.json").write_text(json.dumps(known))
    queries = [
        {"id": number, "image": "AMBER_1.jpg", "query": text} for number, text in ((2, "Is there contact?"), (1, "Describe."))
    ]
    (data / "query" / "query_relation.json").write_text(json.dumps(queries[:1]))
    (data / "query" / "query_generative.json").write_text(json.dumps(queries[1:]))
    questions = asked(amber.BENCHMARK, amber.rows(tmp_path), protocol="vlmevalkit")
    assert [(one.id, text_of(one), one.max_new_tokens) for one in questions] == [
        ("1", "Describe this image.", 2048),
        ("2", "Is there contact?\nPlease answer yes or no.", 32),
    ]
    assert questions[0].record.media[0].ref == tmp_path / "image" / "AMBER_1.jpg"
    (data / "annotations.json").write_text(json.dumps(known[:1]))
    with pytest.raises(DataError, match="query 2 has no annotation"):
        amber.rows(tmp_path)


def test_amber_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="no rows of this benchmark"):
        amber.rows(tmp_path)
    (tmp_path / "annotations.json").write_text("[]")
    with pytest.raises(DataError, match="no queries"):
        amber.rows(tmp_path)


def test_amber_knows_its_words():
    assert len(amber.related()) == 340
    assert amber.related()["person"] == ("people", "individual", "man", "woman", "boy", "girl")
    assert amber.safe() == {"orange", "snack", "line", "camera", "light", "shoe", "sign", "range", "individual"}
    assert amber.vocabulary()["people"] == "people"
    assert amber.vocabulary()["glasses"] == "glass"


# --- Object HalBench ---------------------------------------------------------------------------------------------


def test_object_halbench_by_hand():
    """Of four answers two name nothing, one of them as it is short: one of two invents. Words: dog, puppy, cat, bus, the last
    of which is wrong; two of five objects are named."""
    truths = (["dog", "bed"], ["cat"], ["cat"], ["car"])
    rows = [{"image": "1.jpg", "question": "Describe it.", "truth": truth} for truth in truths]
    said = ["A dog. The dog is a puppy.", "It is a dark room.", "Cats on a bus.", "A big car."]
    assert values(object_halbench.BENCHMARK, rows, said) == {
        "CHAIRs": 1 / 2, "CHAIRi": 1 / 4, "recall": 2 / 5, "naming": 2 / 4, "objects an answer": 4 / 4, "length": 7.0,
    }  # fmt: skip


def test_object_halbench_with_cocos_annotations(tmp_path):
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    rows = [
        {"image_id": 7, "image": base64.b64encode(buffer.getvalue()).decode(), "question": "Describe it."},
        {"image_id": 9, "image": "b.jpg", "question": "Again.", "objects": ["tv"], "captions": ["A man."]},
    ]
    (tmp_path / "obj_halbench_300_with_image.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"row 1: photo 7 is not annotated; give captions_val2014.json"):
        object_halbench.rows(tmp_path)
    folder = tmp_path / "annotations"
    folder.mkdir()
    boxes = {
        "categories": [{"id": 3, "name": "dining table"}, {"id": 4, "name": "cat"}],
        "annotations": [{"image_id": 7, "category_id": 3}, {"image_id": 8, "category_id": 4}],
    }
    captions = {"images": [{"id": 7}, {"id": 8}], "annotations": [{"image_id": 7, "caption": "A lady at a desk."}]}
    (folder / "instances_val2014.json").write_text(json.dumps(boxes))
    (folder / "captions_val2014.json").write_text(json.dumps(captions))
    read = object_halbench.rows(tmp_path)
    assert [row["truth"] for row in read] == [["dining table", "person"], ["person", "tv"]]
    first, second = asked(object_halbench.BENCHMARK, read, base=tmp_path)
    assert open_picture(first.record.media[0]).width == 8
    assert second.record.media[0].ref == tmp_path / "b.jpg"


def test_object_halbench_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="no instructions"):
        object_halbench.rows(tmp_path)
    (tmp_path / "one.jsonl").write_text('{"image": "a.jpg", "question": "?"}')
    with pytest.raises(DataError, match=r"one\.jsonl, row 1: no image_id"):
        object_halbench.rows(tmp_path)


# --- MMHal-Bench -------------------------------------------------------------------------------------------------


def mmhal_row(kind: str = "counting") -> Row:
    return {
        "question_type": kind, "question_topic": "outdoor", "image_id": "2c0e", "image_src": "https://example.org/x_o.jpg",
        "image_content": ["Traffic light", "Tree"], "question": "How many lights?", "gt_answer": "Four.", "model_answer": "",
    }  # fmt: skip


def test_mmhal_by_hand():
    """Likeliest ratings 6, 2 and 3; the mean rating under (0.5, 0.5) on 2 and 3 is 2.5."""
    rows = [mmhal_row("counting"), mmhal_row("counting"), mmhal_row("other")]
    certain = [tuple(0.0 if rating == best else -math.inf for rating in range(7)) for best in (6, 2)]
    mixed = tuple(math.log(0.25) + (1e-9 if rating == 3 else 0.0) if rating in (2, 3) else -math.inf for rating in range(7))
    givens = [Given(text="Four.", tokens=4, ratings=ratings) for ratings in (*certain, mixed)]
    scored = mmhal.BENCHMARK.score(asked(mmhal.BENCHMARK, rows), givens)
    found = {
        name: score.value
        for name, score in scores([one.sums for one in scored], mmhal.BENCHMARK.measures).items()
        if score is not None
    }
    assert found == pytest.approx(
        {
            "score": 11 / 3, "expected score": (6 + 2 + 2.5) / 3, "hallucination rate": 1 / 3, "length": 4.0,
            "score, counting": 4.0, "score, other": 3.0, "hallucination rate, counting": 0.5, "hallucination rate, other": 0.0,
        },
        abs=1e-8,
    )  # fmt: skip
    assert [one.read for one in scored] == ["6", "2", "3"]


def test_mmhal_without_a_judge():
    found = values(mmhal.BENCHMARK, [mmhal_row()], ["Four."])
    assert {name for name, value in found.items() if value is not None} == {"length"}
    assert "--judge" in mmhal.BENCHMARK.notes()[0]


def test_the_judge_is_told_everything():
    (question,) = asked(mmhal.BENCHMARK, [mmhal_row()])
    assert mmhal.BENCHMARK.judge is not None
    record = mmhal.BENCHMARK.judge(question, Given(text=" There are four lights. ", tokens=5))
    (message,) = record.messages
    (text,) = message.content
    for part in ("Traffic light, Tree", "How many lights?", "Four.", "There are four lights."):
        assert part in text
    assert all(f"\n{rating}: " in text for rating in mmhal.BENCHMARK.ratings)
    assert record.media == ()


def test_mmhal_of_a_folder(tmp_path):
    with pytest.raises(DataError, match="no rows of this benchmark"):
        mmhal.rows(tmp_path)
    (tmp_path / "response_template.json").write_text(
        json.dumps([mmhal_row(), mmhal_row() | {"image_id": "other", "image_src": "y"}])
    )
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x_o.jpg").touch()
    first, second = asked(mmhal.BENCHMARK, mmhal.rows(tmp_path), base=tmp_path)
    assert first.record.media[0].ref == tmp_path / "images" / "x_o.jpg"
    assert second.record.media[0].ref == tmp_path / "y"
    assert len({first.id, second.id}) == 2


@pytest.mark.parametrize("place", ["", "images", "test_data", "test_data/images"])
@pytest.mark.parametrize("name", ["2c0e.jpg", "2c0e.png", "x_o.jpg"])
def test_mmhal_pictures_are_found_from_a_relative_folder(tmp_path, monkeypatch, place, name):
    folder = tmp_path / "mmhal"
    (folder / place).mkdir(parents=True)
    (folder / place / name).touch()
    row = mmhal_row() | {"image_src": "https://example.org/x_o.jpg?width=3", "image": None}
    (folder / "response_template.json").write_text(json.dumps([row]))
    monkeypatch.chdir(tmp_path)
    (question,) = asked(mmhal.BENCHMARK, mmhal.rows(Path("mmhal")), base=Path("mmhal"))
    assert question.record.media[0].ref == folder / place / name


@pytest.mark.parametrize("holds", ["pictures", "everything"])
def test_mmhal_as_the_hub_has_it(tmp_path, holds):
    """Questions beside an archive of pictures, or all in it; a damaged archive does not matter where nothing is missing."""
    rows = json.dumps([mmhal_row()])
    with zipfile.ZipFile(tmp_path / "test_data.zip", "w") as archive:
        archive.writestr("test_data/images/x_o.jpg", b"a picture")
        if holds == "everything":
            archive.writestr("test_data/response_template.json", rows)
    if holds == "pictures":
        (tmp_path / "response_template.json").write_text(rows)
    for _ in range(2):
        (question,) = asked(mmhal.BENCHMARK, mmhal.rows(tmp_path), base=tmp_path)
        assert question.record.media[0].ref == tmp_path / "test_data" / "images" / "x_o.jpg"
        (tmp_path / "test_data.zip").write_bytes(b"PK")
        (tmp_path / "test_data.zip.unpacked").unlink(missing_ok=True)
    assert set(mmhal.BENCHMARK.files) == {"response_template.json", "test_data.zip", "images/*"}


def test_mmhal_with_a_picture_in_the_row(tmp_path):
    row = mmhal_row() | {"image_src": "data:image/png;base64," + "A" * 5_000}
    (tmp_path / "response_template.json").write_text(json.dumps([row]))
    assert mmhal.rows(tmp_path) == [row]


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ("Traffic light", ["Traffic light"]),
        (["Traffic light", "Tree"], ["Traffic light", "Tree"]),
        ([["Traffic light", "Tree"], ["Car"]], ["Traffic light", "Tree", "Car"]),
        ([["Traffic light"], "Car"], ["Traffic light", "Car"]),
        ([], []),
    ],
)
def test_mmhal_contents_in_any_form(listed, told):
    (question,) = asked(mmhal.BENCHMARK, [mmhal_row() | {"image_content": listed}])
    assert question.facts["content"] == told


# --- scenes ------------------------------------------------------------------------------------------------------


def test_scenes_by_hand():
    """Five objects are named: the circle and one star are right; the second star, the red star and the dog are not there."""
    rows = scenes.rows(Path())[:2]
    truth = ["a red circle at the top and a blue star in the middle", "a pink square at the left"]
    rows = [row | {"caption": caption} for row, caption in zip(rows, truth)]
    said = [
        "a blue star in the middle and a blue star in the middle and a red circle at the top "
        "and a red star in the middle and a dog.",
        " a pink square at the left",
    ]
    found = values(scenes.BENCHMARK, rows, said)
    assert found == {
        "exact": 1 / 2, "recall": 3 / 3, "hallucination": 3 / 6, "objects a caption": 3.0, "length": 7.0,
    }  # fmt: skip
    (first, _) = scenes.BENCHMARK.score(asked(scenes.BENCHMARK, rows), [Given(text=text, tokens=1) for text in said])
    assert [(said[0][start:end], kind) for start, end, kind in first.marks] == [
        ("a blue star in the middle", "right"),
        ("a blue star in the middle", "hallucinated"),
        ("a red circle at the top", "right"),
        ("a red star in the middle", "hallucinated"),
        ("a dog", "hallucinated"),
    ]


def test_scenes_are_those_of_the_test_split():
    rows = scenes.rows(Path())
    questions = asked(scenes.BENCHMARK, rows)
    assert len(rows) == 200
    assert open_picture(questions[0].record.media[0]).width == 96
    perfect = values(scenes.BENCHMARK, rows, [row["caption"] for row in rows])
    assert (perfect["exact"], perfect["recall"], perfect["hallucination"]) == (1.0, 1.0, 0.0)
    truths, said = rows[:-1], [row["caption"] for row in rows[1:]]  # each is given its neighbour's caption
    pairs = [(Counter(parse_caption(text)), Counter(parse_caption(row["caption"]))) for text, row in zip(said, truths)]
    right, named, there = (sum(n) for n in zip(*(((a & b).total(), a.total(), b.total()) for a, b in pairs)))
    wrong = values(scenes.BENCHMARK, truths, said)
    exact = sum(text == row["caption"] for text, row in zip(said, truths)) / len(truths)
    assert (wrong["exact"], wrong["recall"], wrong["hallucination"]) == pytest.approx((exact, right / there, 1 - right / named))


@pytest.mark.parametrize("caption", ["", "  ", " and  and ", "a dog .", "a red circle at the top.. ", "\n and a cat and "])
def test_pieces_of_odd_captions_stand_where_they_are(caption):
    sums, marks = scene_sums(caption, "a red circle at the top")
    assert sums["named"] == len(marks)
    assert all(caption[start:end].strip() == caption[start:end] != "" for start, end, _ in marks)


def test_a_picture_from_elsewhere_is_no_scene():
    with pytest.raises(DataError, match="not a drawn scene"):
        asked(scenes.BENCHMARK, [{"image": "a.jpg", "caption": "a red circle at the top"}])
