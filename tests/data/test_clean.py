"""What cleaning takes out of preference pairs, and what it says about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smolforge.data.clean import NAMED, UNREADABLE, Findings, PairRules, clean_pairs
from smolforge.data.sources import shapes
from smolforge.data.sources.source import Source
from smolforge.errors import DataError

ROWS = [
    {"prompt": "a?", "chosen": "yes", "rejected": "no"},
    {"prompt": "a?", "chosen": " yes", "rejected": "no\n"},  # 1: the same
    {"prompt": "a?", "chosen": "no", "rejected": "yes"},  # 2: the other way round
    {"prompt": "b?", "chosen": "yes", "rejected": "no"},
    {"prompt": "c?", "chosen": "yes", "rejected": " "},  # 4
    {"prompt": "d?", "chosen": "same", "rejected": "same "},  # 5
    {"prompt": "e?", "chosen": "word " * 20, "rejected": "ok"},  # 6: 99 characters against 2
    {"prompt": "f?", "chosen": "yes"},  # 7: unreadable
]


def source(rows: list[dict], to_record=shapes.record) -> Source:
    return Source(name="s", table=rows, rows=range(len(rows)), to_record=to_record)


def clean(rows: list[dict], **rules) -> tuple[list[int], Findings]:
    cleaned, findings = clean_pairs(source(rows), PairRules(**rules))
    return list(cleaned.rows), findings


def test_what_is_found_is_removed_and_named():
    kept, findings = clean(ROWS)
    assert kept == [0, 3, 6, 7]
    assert findings.removed == {
        "duplicate pair": 1,
        "contradicts an earlier pair": 1,
        "empty answer": 1,
        "chosen and rejected are identical": 1,
    }
    assert findings.shown == {"length-skewed pair": 1, UNREADABLE: 1}
    assert findings.lines() == [
        "s: removed 1 pair: duplicate pair",
        "s: removed 1 pair: contradicts an earlier pair",
        "s: removed 1 pair: empty answer",
        "s: removed 1 pair: chosen and rejected are identical",
        "s: kept 1 pair: length-skewed pair",
        f"s: kept 1 pair: {UNREADABLE}",
        "s: median characters 3 chosen, 2 rejected; chosen is longer in 100% of 3 pairs",
        "  s[1]: duplicate pair (of row 0)",
        "  s[2]: contradicts an earlier pair (row 0)",
        "  s[4]: empty answer",
        "  s[5]: chosen and rejected are identical",
        "  s[6]: length-skewed pair (2 and 99 characters)",
        "  s[7]: a pair without rejected; give both answers, or single ones as prompt, completion and label (true or false)",
    ]


def test_rules_about_lengths():
    rows = [ROWS[0], ROWS[6]]
    assert clean(rows, max_chars=99)[0] == [0, 1]
    kept, findings = clean(rows, max_chars=98)
    assert kept == [0]
    assert findings.removed == {"an answer is over-long": 1}
    assert clean(rows, max_length_ratio=50)[0] == [0, 1]  # 99 / 2 is shown without a rule, not with a wider one
    assert not clean(rows, max_length_ratio=50)[1].shown
    assert clean(rows, max_length_ratio=49)[1].removed == {"length-skewed pair": 1}


def test_duplicates_may_stay():
    kept, findings = clean(ROWS[:3], duplicates=False)
    assert kept == [0, 1, 2]
    assert findings.shown == {"duplicate pair": 1, "contradicts an earlier pair": 1}
    assert clean([ROWS[6], ROWS[6]], duplicates=False, max_length_ratio=100)[1].shown == {"duplicate pair": 1}


def test_pairs_about_different_pictures_differ():
    """By path, address or bytes; drawn pictures by their record."""
    pair = {"prompt": "a?", "chosen": "yes", "rejected": "no"}
    same = Image.new("RGB", (2, 2))
    pictures = ["a.jpg", "b.jpg", "a.jpg", "https://x/a.jpg", {"bytes": b"1"}, {"bytes": b"2"}, {"bytes": b"1"}, same, same]
    assert clean([pair | {"image": picture} for picture in pictures])[0] == [0, 1, 3, 4, 5, 7, 8]


def test_pictures_are_not_opened():
    pair = {"prompt": "a?", "chosen": "yes", "rejected": "no"}
    assert clean([pair | {"image": "/nowhere/a.jpg"}, pair | {"image": {"bytes": b"no picture"}}])[0] == [0, 1]


def test_single_answers():
    """KTO: a judged answer is empty or comes twice; the opposite label is no duplicate, and no length is told."""
    answers = [("yes", True), ("yes", True), ("yes", False), ("", False), ("word " * 20, True)]
    kept, findings = clean([{"prompt": "a?", "completion": text, "label": label} for text, label in answers], max_chars=5)
    assert kept == [0, 2, 4]
    assert findings.lines()[:2] == ["s: removed 1 row: duplicate answer", "s: removed 1 row: empty answer"]
    assert not findings.lengths


def test_nothing_left():
    with pytest.raises(DataError, match="s: no pair is left after cleaning") as caught:
        clean(ROWS[4:6])
    assert "1 empty answer" in str(caught.value)
    assert clean(ROWS[7:])[0] == [0]  # what cannot be read is the pipeline's to count


def test_removed_rows_are_named_before_shown_ones():
    rows = [{"prompt": str(n), "chosen": "x" * 50, "rejected": "x"} for n in range(30)] + [ROWS[4]]
    named = clean(rows)[1].named
    assert len(named) == NAMED
    assert named[0] == "s[30]: empty answer"


texts = st.sampled_from(["", "a", "b ", "b", "c" * 9, "d" * 120])
pairs = st.fixed_dictionaries({"prompt": st.sampled_from(["p", "q"]), "chosen": texts, "rejected": st.none() | texts})
some_rules = st.builds(
    PairRules,
    duplicates=st.booleans(),
    max_chars=st.none() | st.integers(1, 130),
    max_length_ratio=st.none() | st.sampled_from([1.5, 10.0]),
)


@given(st.lists(pairs, min_size=1, max_size=12), some_rules)
def test_cleaning_keeps_order_counts_every_row_and_is_idempotent(rows, rules):
    anchor = {"prompt": "anchor", "chosen": "e", "rejected": "f"}  # breaks no rule, so that something is left
    first, findings = clean_pairs(source([*rows, anchor]), rules)
    assert list(first.rows) == sorted(set(first.rows))
    assert len(first) + findings.removed.total() == findings.rows == len(rows) + 1
    again, found = clean_pairs(first, rules)
    assert (again.rows, found.removed.total(), found.shown) == (first.rows, 0, findings.shown)
