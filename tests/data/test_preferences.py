"""Published preference sets, single judged answers and corrected spans, as records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolforge.data.sources import shapes
from smolforge.data.sources.preferences import pair_columns
from smolforge.data.sources.tables import SOURCES, open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.records import Media, Message, Record

JPG = {"bytes": b"jpg", "path": None}
WHAT, BENCH, DOGS = "What is shown?", "A bench by a lake.", "A bench and two dogs."


def read(row: dict, **options) -> Record:
    return shapes.record(row, id="7", source="s", **options)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts)]


def parts(role: str, *content: dict) -> list[dict]:
    return [{"role": role, "content": list(content)}]


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


def human(*texts: str) -> list[dict[str, str]]:
    return [{"from": name, "value": text} for name, text in zip(("human", "gpt") * 2, texts)]


RLAIF_V_FORMATTED = {
    "images": [JPG],
    "prompt": parts("user", {"type": "image", "text": None}, text_part(WHAT)),
    "chosen": parts("assistant", text_part(BENCH)),
    "rejected": parts("assistant", text_part(DOGS)),
}
RLAIF_V = {
    "ds_name": "RLAIF-V", "image": JPG, "question": WHAT, "chosen": BENCH, "rejected": DOGS, "origin_dataset": "COCO",
    "origin_split": "{}", "idx": 0, "image_path": "llava1.5_raw_images/00013/000139279.jpg",
}  # fmt: skip
RLHF_V = {
    "ds_name": "RLHF-V", "image": JPG, "origin_dataset": "LLaVA-Instruct", "origin_split": "x", "idx": 3, "image_path": "a.jpg",
    "text": json.dumps({"question": WHAT, "chosen": BENCH, "rejected": DOGS, "logps": [-1.5]}),
}  # fmt: skip
POVID = {
    "id": "000000118233", "image": "000000118233.jpg",
    "conversations": human(f"<image>\n{WHAT}", BENCH), "rejected_conversations": human(f"<image>\n{WHAT}", DOGS),
}  # fmt: skip
LLAMA_FACTORY = {
    "images": [JPG], "conversations": human(f"<image>\n{WHAT}"),
    "chosen": {"from": "gpt", "value": BENCH}, "rejected": {"from": "gpt", "value": DOGS},
}  # fmt: skip
TRL = {"chosen": turns(WHAT, BENCH), "rejected": turns(WHAT, DOGS), "score_chosen": 8.0, "score_rejected": 3.5}
ARGILLA = {
    "source": "evol_instruct", "prompt": WHAT, "chosen": turns(WHAT, BENCH), "chosen-rating": 5.0, "chosen-model": "gpt-4",
    "rejected": turns(f"{WHAT}\n", DOGS), "rejected-rating": 2.0, "rejected-model": "alpaca-7b",
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "pictures"),
    [
        (RLAIF_V_FORMATTED, [b"jpg"]),
        (RLAIF_V, [b"jpg"]),
        (RLHF_V, [b"jpg"]),
        (POVID, [Path("/coco/000000118233.jpg")]),
        (LLAMA_FACTORY, [b"jpg"]),
        (TRL, []),
        (ARGILLA, []),
    ],
    ids=["rlaif_v formatted", "rlaif_v", "rlhf_v", "povid", "llama factory", "trl", "argilla"],
)
def test_published_pairs(row, pictures):
    record = read(row, base=Path("/coco"))
    content = (*(Media(ref=picture) for picture in pictures), WHAT)
    assert record.messages == (Message(role="user", content=content),)
    assert [(response.kind, response.text) for response in record.responses] == [("chosen", BENCH), ("rejected", DOGS)]


def test_named_sources_say_where_they_come_from():
    for name in ("rlaif_v", "rlhf_v", "povid", "ultrafeedback_binarized", "ultrafeedback_cleaned"):
        assert "/" in (SOURCES[name].hub or "")


def test_a_local_copy_is_recognised_by_its_columns(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list([RLHF_V])
    rows.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    (tmp_path / "povid.json").write_text(json.dumps([POVID]))
    for name in ("saved", "povid.json"):
        record = open_source(DataSection(source=str(tmp_path / name))).record(0)
        assert [response.text for response in record.responses] == [BENCH, DOGS]
        assert len(record.media) == 1


def test_a_conversation_that_ends_in_two_ways():
    row = {"chosen": turns("one?", "1", "two?", "2"), "rejected": turns("one?", "1", "two?", "3")}
    record = read(row)
    assert [message.role for message in record.messages] == ["user", "assistant", "user"]
    assert not any(message.train for message in record.messages)


def test_a_caption_that_looks_like_json_stays_a_caption():
    row = {"image": "a.jpg", "text": '{"word": 1}'}
    assert pair_columns(row) is row
    assert read(row).responses[0].text == '{"word": 1}'


@pytest.mark.parametrize(("label", "kind"), [(True, "chosen"), (False, "rejected"), ("False", "rejected"), (None, "target")])
def test_single_judged_answers(label, kind):
    for prompt, completion in ((WHAT, BENCH), (turns(WHAT), [{"role": "assistant", "content": BENCH}])):
        record = read({"prompt": prompt, "completion": completion, "label": label})
        assert [(response.kind, response.text) for response in record.responses] == [(kind, BENCH)]


def test_corrected_spans_travel_with_their_answer():
    row = {"prompt": WHAT, "chosen": BENCH, "rejected": DOGS, "chosen_spans": [[8, 17]], "rejected_spans": None}
    chosen, rejected = read(row).responses
    assert [chosen.text[start:end] for start, end in chosen.spans] == ["by a lake"]
    assert rejected.spans == ()


@pytest.mark.parametrize("span", [[3, 3], [5, 2], [-1, 4], [0, len(BENCH) + 1], [0.0, 2], [0, True], [1], 4, "ab", None])
def test_spans_outside_their_answer(span):
    with pytest.raises(DataError, match="a span that is not part of its answer") as caught:
        read({"prompt": WHAT, "chosen": BENCH, "rejected": DOGS, "chosen_spans": [[0, 1], span]})
    assert f"<= {len(BENCH)}" in str(caught.value)


PAIR = {"prompt": WHAT, "chosen": BENCH, "rejected": DOGS}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": WHAT, "chosen": BENCH}, "a pair without rejected; give both answers"),
        (PAIR | {"rejected": None}, "a pair without rejected"),
        (PAIR | {"chosen": None}, "a pair without chosen"),
        (POVID | {"rejected_conversations": None}, "a pair without rejected"),
        ({"image": JPG, "text": '{"question": "a?", "rejected": "b"}'}, "a pair without chosen"),
        ({"image": JPG, "text": '{"question": "a?", "chosen": "b", '}, "the pair in text is not valid JSON"),
        (PAIR | {"prompt": ""}, "chosen and rejected without a prompt"),
        (TRL | {"prompt": "Another question?"}, "answer different prompts"),
        (TRL | {"rejected": turns("Another?", DOGS)}, "answer different prompts"),
        (POVID | {"rejected_conversations": human("<image>\nAnother?", DOGS)}, "answer different prompts"),
        (TRL | {"chosen": turns(WHAT)}, "does not end with the assistant"),
        (TRL | {"chosen": []}, "does not end with the assistant"),
        (PAIR | {"chosen": 5}, "a chosen answer given as int; give it as text or messages"),
        (PAIR | {"prompt": "<image> <image> Which?", "image": "a.jpg"}, "2 image placeholders for 1 pictures"),
        (RLAIF_V_FORMATTED | {"images": [JPG, JPG]}, "1 image placeholders for 2 pictures"),
        (RLAIF_V_FORMATTED | {"images": None}, "1 image placeholders for 0 pictures"),
        (TRL | {"rejected": [*turns(WHAT), *parts("assistant", {"type": "image"})]}, "a picture in an assistant's turn"),
        ({"prompt": WHAT, "completion": BENCH, "label": "good"}, "a label that is neither true nor false; mend 'good'"),
        ({"prompt": WHAT, "completion": BENCH, "label": 1}, "a label that is neither true nor false"),
    ],
)
def test_malformed_pairs_are_named(row, words):
    with pytest.raises(DataError, match=words) as caught:
        read(row)
    assert "\n" not in str(caught.value)
