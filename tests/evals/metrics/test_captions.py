"""Caption metrics against pycocoevalcap on the same tokens, and against values worked out by hand."""

from __future__ import annotations

import datetime
import importlib.util
import json
import math
import pickle
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smolforge.errors import DataError, ModelError
from smolforge.evals.measures import Total
from smolforge.evals.metrics import meteor, spice
from smolforge.evals.metrics.bleu import bleu, bleu_sums
from smolforge.evals.metrics.captions import caption_sums
from smolforge.evals.metrics.cider import DocumentFrequencies, cider_d
from smolforge.evals.metrics.clipscore import ClipScore, ClipScores
from smolforge.evals.metrics.ptb import tokenize
from smolforge.evals.metrics.rouge import rouge_l

EXACT = 1e-9  # worst seen: BLEU 1.2e-16, ROUGE-L 0, CIDEr-D 9e-16
ABSENT = importlib.util.find_spec("pycocoevalcap") is None
needs_pycocoevalcap = pytest.mark.skipif(ABSENT, reason="needs pycocoevalcap")
needs_meteor = pytest.mark.skipif(meteor.missing() is not None, reason=meteor.missing() or "")

Tokens = list[str]
Corpus = list[tuple[Tokens, list[Tokens]]]  # captions with their references


def total(examples: list[dict[str, float]]) -> Total:
    return Total({name: np.array([sum(sums[name] for sums in examples)]) for name in examples[0]})


def as_dicts(corpus: Corpus) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and captions in pycocoevalcap's form."""
    references = {number: [" ".join(one) for one in given_] for number, (_, given_) in enumerate(corpus)}
    return references, {number: [" ".join(said)] for number, (said, _) in enumerate(corpus)}


def agree(corpus: Corpus) -> None:
    """BLEU-1 to 4 of the corpus and of each caption, ROUGE-L and CIDEr-D of each caption."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references, captions = as_dicts(corpus)
    whole, each = Bleu(4).compute_score(references, captions, verbose=0)
    sums = [bleu_sums(said, given_) for said, given_ in corpus]
    for n in (1, 2, 3, 4):
        assert bleu(n)(total(sums)).item() == pytest.approx(whole[n - 1], abs=EXACT)
        assert [bleu(n)(total([one])).item() for one in sums] == pytest.approx(each[n - 1], abs=EXACT)
    _, theirs = Rouge().compute_score(references, captions)
    assert [rouge_l(said, given_) for said, given_ in corpus] == pytest.approx(list(theirs), abs=EXACT)
    frequencies = DocumentFrequencies.of([given_ for _, given_ in corpus])
    _, theirs = Cider().compute_score(references, captions)
    assert [cider_d(said, given_, frequencies) for said, given_ in corpus] == pytest.approx(list(theirs), abs=EXACT)


@pytest.fixture(scope="module")
def photos(shared: Path) -> list[list[Tokens]]:
    """Five human captions of each of 85 photos."""
    files = [shared / "coco_mini" / f"annotations_{split}2017.json" for split in ("train", "val")]
    rows = [row for file in files for row in json.loads(file.read_text())]
    assert len(rows) == 85
    return [[tokenize(caption) for caption in row["captions"][:5]] for row in rows]


def held_out(photos: list[list[Tokens]], number: int) -> Corpus:
    """Each photo's caption of this number against its other four."""
    return [(given_[number], given_[:number] + given_[number + 1 :]) for given_ in photos]


@needs_pycocoevalcap
@pytest.mark.parametrize("number", range(5))
def test_human_captions(photos: list[list[Tokens]], number: int) -> None:
    agree(held_out(photos, number))


# Few words, so that much matches; the last one is BLEU's and CIDEr's two words and ROUGE's one.
sentence = st.lists(st.sampled_from(["a", "b", "c", "d", "5\u00a01/2"]), max_size=9)
spoken = sentence.filter(len)


@needs_pycocoevalcap
@given(corpus=st.lists(st.tuples(sentence, st.lists(spoken, min_size=1, max_size=4)), min_size=1, max_size=6))
def test_random_tokens(corpus: Corpus) -> None:
    """Empty captions and those of one word included. Longer ones than their references are not punished."""
    agree(corpus)


@needs_pycocoevalcap
def test_nothing_against_nothing() -> None:
    agree([([], [[], ["a"]]), (["a"], [[]]), ([], [[]]), (["a", "b"], [["a", "b"]])])


# --- BLEU ----------------------------------------------------------------------------------------------------------------


def test_bleu_by_hand() -> None:
    """6 words, closest reference 7: penalty exp(1 - 7 / 6). The: 2 of 3 count, as one reference has 2; cat and sat: 1 each.

    Right bigrams: "the cat", "cat sat" of 5; trigrams: "the cat sat" of 4.
    """
    said = ["the", "the", "cat", "sat", "the", "down"]
    sums = bleu_sums(said, [["the", "cat", "sat", "on", "the", "mat", "today"], ["the", "cat"]])
    assert (sums["bleu.length"], sums["bleu.reference"]) == (6, 7)
    assert [sums[f"bleu.right{n}"] for n in (1, 2, 3, 4)] == [4, 2, 1, 0]
    assert [sums[f"bleu.said{n}"] for n in (1, 2, 3, 4)] == [6, 5, 4, 3]
    penalty = math.exp(1 - 7 / 6)
    assert bleu(1)(total([sums])).item() == pytest.approx(penalty * 4 / 6)
    assert bleu(2)(total([sums])).item() == pytest.approx(penalty * math.sqrt(4 / 6 * 2 / 5))
    assert bleu(3)(total([sums])).item() == pytest.approx(penalty * (4 / 6 * 2 / 5 * 1 / 4) ** (1 / 3))


def test_of_two_closest_references_the_shorter_counts() -> None:
    assert bleu_sums(["a", "b", "c"], [["a"] * 4, ["a"] * 2])["bleu.reference"] == 2


def test_bleu_of_many_resamples_at_once() -> None:
    sums = total([bleu_sums(["a", "b"], [["a", "b", "c"]])])
    both = Total({name: np.concatenate([value, 3 * value]) for name, value in sums.items()})
    assert bleu(2)(both) == pytest.approx([math.exp(-0.5)] * 2)


# --- ROUGE-L -------------------------------------------------------------------------------------------------------------


def test_rouge_by_hand() -> None:
    """P from the second reference: 3 of 4. R from the first: 1 of 1."""
    found = rouge_l(["a", "cat", "sat", "down"], [["cat"], ["a", "cat", "has", "sat", "up"]])
    assert found == pytest.approx((1 + 1.44) * 1 * 0.75 / (1 + 1.44 * 0.75))


# --- CIDEr-D -------------------------------------------------------------------------------------------------------------


def test_cider_by_hand() -> None:
    """Two images; "a" is in both and weighs nothing, "cat" and all bigrams are in one and weigh log 2.

    Unigrams: "a cat cat" has cat 2, the reference "a cat" 1: min(2, 1) * 1 / (2 * 1) = 1 / 2. Bigrams: "a cat" and "cat cat" of
    length sqrt 2, one is right: 1 / sqrt 2. Trigrams: the reference has none. Lengths 2 and 1 bigrams: exp(-1 / 72).
    """
    frequencies = DocumentFrequencies.of([[["a", "cat"]], [["a", "dog"]]])
    found = cider_d(["a", "cat", "cat"], [["a", "cat"]], frequencies)
    assert found == pytest.approx(10 * (1 / 2 + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72))


COUNTS = {("a",): 40.0, ("cat",): 3.0, ("a", "cat"): 2.0}


def test_frequencies_of_all_formats(tmp_path: Path) -> None:
    """Python 2 and 3, NumPy numbers, a defaultdict, and JSON say the same."""
    numbers = {ngram: np.float64(count) for ngram, count in COUNTS.items()}
    wholes: Any = defaultdict(float, {ngram: np.int64(count) for ngram, count in COUNTS.items()})
    files: dict[str, bytes] = {
        "plain.p": pickle.dumps({"document_frequency": COUNTS, "ref_len": 50}),
        "old.p": pickle.dumps({"document_frequency": wholes, "ref_len": np.float64(50)}, protocol=2),
        "text.p": pickle.dumps({"document_frequency": numbers, "ref_len": 50.0}, protocol=0),
        "python2.p": b"(dp0\nS'ref_len'\np1\nF50.0\nsS'document_frequency'\np2\nccollections\ndefaultdict\np3\n"
        b"(c__builtin__\nfloat\ntR(S'a'\ntF40.0\ns(S'cat'\ntF3.0\ns(S'a'\nS'cat'\ntF2.0\nss.",
        "own.json": json.dumps({"images": 50, "ngrams": {"a": 40, "cat": 3, "a cat": 2}}).encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        found = DocumentFrequencies.read(tmp_path / name)
        assert (found.counts, found.log_images) == (COUNTS, math.log(50)), name


def test_given_frequencies_by_hand() -> None:
    """Unigrams only: a weighs log(50 / 40), cat log(50 / 3), dog, which no image has, log 50; all of the reference is said."""
    frequencies = DocumentFrequencies(counts=COUNTS, log_images=math.log(50))
    a, cat, dog = math.log(50 / 40), math.log(50 / 3), math.log(50)
    one = (a * a + cat * cat) / math.hypot(a, cat) / math.hypot(a, cat, dog)
    found = cider_d(["dog", "a", "cat"], [["a", "cat"]], frequencies)
    two = math.log(50 / 2) / math.hypot(math.log(50 / 2), math.log(50))  # "a cat" against "dog a", "a cat"
    assert found == pytest.approx(10 * (one + two) / 4 * math.exp(-1 / 72))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickle.dumps({"document_frequency": COUNTS, "ref_len": datetime.date(2014, 1, 1)}), "datetime.date"),
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (pickle.dumps({"document_frequency": COUNTS}), "ref_len"),
        (pickle.dumps({"document_frequency": COUNTS, "ref_len": np.datetime64("2014-01-01")}), "kind M8"),
        (pickle.dumps([1, 2]), "no document frequencies"),
        (pickle.dumps({"document_frequency": {"a": 1}, "ref_len": 5}), "not a tuple"),
        (pickle.dumps({"document_frequency": COUNTS, "ref_len": 0}), "0.0 images"),
        (pickle.dumps(COUNTS)[:-8], "no document frequencies"),
        (b"", "no document frequencies"),
        (b'{"images": 5}', "ngrams"),
        (b'{"images": 5', "no document frequencies"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "df.p").write_bytes(data)
    with pytest.raises(DataError, match=said):
        DocumentFrequencies.read(tmp_path / "df.p")


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        DocumentFrequencies.read(tmp_path / "df.p")


# --- METEOR --------------------------------------------------------------------------------------------------------------


ODD: Corpus = [
    ([], [["a", "cat"]]),
    (["a", "|||", "cat"], [["a", "cat"], ["dogs"]]),
    (["x"], [["y"]]),
    (["a", "brown", "horse"], [["a", "brown", "horse"]]),
    (["a", "brown", "horse"], [["a", "brown", "horse", "runs"]]),
]


@needs_meteor
@pytest.mark.slow
def test_meteor_against_the_program(photos: list[list[Tokens]]) -> None:
    """The program's own score of each human caption and of all, and of what is treated apart: nothing said, "|||" in a caption,
    nothing matched, a caption that is its reference or a part of it. Worst seen: 2e-16.

    One more by hand, so that the program starts no third time: "cats sat" and "cat sat" have one content word by its stem, 0.6,
    and one exactly, 1, so P = R = 0.8; one chunk over all words costs nothing.
    """
    from pycocoevalcap.meteor.meteor import Meteor

    corpus = [pair for number in range(5) for pair in held_out(photos, number)] + ODD
    references, captions = as_dicts([*corpus, (["cats", "sat"], [["cat", "sat"]])])
    program = Meteor()
    whole, each = program.compute_score(references, captions)
    for pipe in (program.meteor_p.stdout, program.meteor_p.stderr):
        pipe.close()
    sums = meteor.meteor_sums([captions[number][0] for number in captions], [references[number] for number in references])
    assert len(sums) == 5 * 85 + len(ODD) + 1
    assert [meteor.meteor(total([one])).item() for one in sums] == pytest.approx(each, abs=1e-14)
    assert meteor.meteor(total(sums)).item() == pytest.approx(whole, abs=1e-14)
    last = sums[-1]
    assert (last["meteor.words"], last["meteor.exact.content"], last["meteor.stem.content"]) == (2, 1, 1)
    assert meteor.meteor(total([last])).item() == pytest.approx(0.8)


def test_meteor_formula_by_hand() -> None:
    """4 words of which 2 function words, against 5 with 2; "a" and "cat" are matched exactly, in 2 chunks.

    P = (0.75 * 1 + 0.25 * 1) / (0.75 * 2 + 0.25 * 2) = 1 / 2, R = 1 / (0.75 * 3 + 0.25 * 2) = 4 / 11, penalty 0.6 (2 / 2)^0.2.
    """
    sums = dict.fromkeys(meteor.NAMES, 0.0) | {
        "meteor.words": 4.0, "meteor.given_words": 5.0, "meteor.function_words": 2.0, "meteor.given_function_words": 2.0,
        "meteor.exact.content": 1.0, "meteor.exact.given_content": 1.0,
        "meteor.exact.function": 1.0, "meteor.exact.given_function": 1.0,
        "meteor.chunks": 2.0, "meteor.matched": 2.0, "meteor.given_matched": 2.0,
    }  # fmt: skip
    expected = (1 - 0.6) / (0.15 / (1 / 2) + 0.85 / (4 / 11))
    assert meteor.meteor(total([sums])).item() == pytest.approx(expected)


def test_meteor_of_nothing_is_zero() -> None:
    assert meteor.meteor(total([dict.fromkeys(meteor.NAMES, 0.0)])).item() == 0
    assert meteor.meteor_sums([], []) == []


@pytest.mark.parametrize("metric", [meteor, spice])
def test_without_java(metric: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Java" in metric.missing()
    run = meteor.meteor_sums if metric is meteor else spice.spice_scores
    with pytest.raises(DataError, match="Java"):
        run(["a cat"], [["a cat"]])


# --- SPICE ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(ABSENT or shutil.which("java") is None, reason="needs Java and pycocoevalcap")
def test_spice_says_what_is_missing() -> None:
    lack = spice.missing()
    assert lack is None or "stanford-corenlp-3.6.0" in lack


def test_spices_answer(tmp_path: Path) -> None:
    """By number, not as they come; null is what the program writes for no score."""
    rows = [
        {"image_id": number, "scores": {"All": {"pr": 1.0, "re": 0.5, "f": f}}} for number, f in ((2, 0.25), (0, 0.5), (1, None))
    ]
    (tmp_path / "answer.json").write_text(json.dumps(rows))
    assert spice.read_answer(tmp_path / "answer.json", 3) == pytest.approx([0.5, math.nan, 0.25], nan_ok=True)
    with pytest.raises(DataError, match="3 of 4"):
        spice.read_answer(tmp_path / "answer.json", 4)


# --- CLIPScore -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of 32 pixels and letters as tokens."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocab = {
        token: number
        for number, token in enumerate([*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"])
    }
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[])
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = shape | dict(vocab_size=len(vocab), bos_token_id=52, eos_token_id=53, pad_token_id=53, max_position_embeddings=40)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=shape | dict(image_size=32, patch_size=8), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


PICTURES = [Image.linear_gradient("L"), Image.new("RGB", (50, 40), "red"), Image.radial_gradient("L").resize((64, 96))]
CAPTIONS = ["a red cat", "two dogs", "x" * 90]
REFERENCES = [["a cat", "a red cat"], ["one dog"], ["y", "z z", "x" * 90]]


def cosines(folder: Path) -> tuple[list[float], list[float]]:
    """Of picture and caption, and the best of caption and reference; one at a time, by transformers' own whole forward."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    seen, read = [], []
    for picture, caption, given_ in zip(PICTURES, CAPTIONS, REFERENCES):
        texts = [f"A photo depicts {text}" for text in (caption, *given_)]
        vectors = []
        for text in texts:
            inputs = processor(
                text=[text], images=picture.convert("RGB"), return_tensors="pt", truncation=True, max_length=40
            )  # fmt: skip
            with torch.no_grad():
                out = model(**inputs)
            vectors.append(out.text_embeds[0])  # of length 1
            image = out.image_embeds[0]
        seen.append(float(vectors[0] @ image))
        read.append(max(float(vectors[0] @ other) for other in vectors[1:]))
    return seen, read


def test_clipscore(clip: Path) -> None:
    """float32 in batches against one at a time: worst seen 1.1e-6."""
    seen, read = cosines(clip)
    assert min(seen) < 0 < max(seen), "the test wants both signs"
    found = ClipScore(str(clip)).score(PICTURES, CAPTIONS, REFERENCES)
    firsts = [2.5 * max(cosine, 0) for cosine in seen]
    assert [one.clip for one in found] == pytest.approx(firsts, abs=5e-6)
    means = [2 * a * b / (a + b) if a and b else 0.0 for a, b in zip(firsts, (max(cosine, 0) for cosine in read))]
    assert [one.ref for one in found] == pytest.approx(means, abs=5e-6)
    assert read[0] == pytest.approx(1)  # one of its references is the caption


def test_clipscore_without_references(clip: Path) -> None:
    scorer = ClipScore(str(clip))
    found = scorer.score(PICTURES, CAPTIONS, None)
    assert found == [ClipScores(clip=one.clip, ref=None) for one in scorer.score(PICTURES, CAPTIONS, REFERENCES)]


def test_no_clip_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="CLIP"):
        ClipScore(str(tmp_path))


def test_spice_is_given_tokens_and_may_say_nothing_of_a_caption(monkeypatch):
    """pycocoevalcap tokenises before every scorer; a caption without a value counts for nothing."""
    asked = []

    def answered(*arguments):
        asked.append(arguments)
        return [0.5, float("nan")]

    monkeypatch.setattr(spice, "spice_scores", answered)
    first, second = caption_sums(["A dog, running.", "Uh."], [["A dog."], ["Oh!"]], ["spice"])
    assert asked == [(["a dog running", "uh"], [["a dog"], ["oh"]])]
    assert (first["spice"], first["spiced"], "spiced" in second) == (0.5, 1.0, False)
