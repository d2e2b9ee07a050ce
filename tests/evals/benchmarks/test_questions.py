"""Questions with short answers: the prompts word for word under both protocols, and scores worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smolforge.errors import DataError, MediaError
from smolforge.evals.benchmark import PROTOCOLS, Benchmark, Given, Origin, Question
from smolforge.evals.benchmarks import chartqa, docvqa, mlvu, mvbench, pope, textvqa, videomme
from smolforge.evals.measures import scores
from smolforge.records import Media, Message

PICTURE = Image.new("RGB", (8, 6))
FINISH = "\nAnswer the question using a single word or phrase."

ROWS: dict[str, dict[str, Any]] = {
    "docvqa": {
        "questionId": "49153", "question": "What is the ‘actual’ value? ", "question_types": ["figure/diagram"], "image": PICTURE,
        "answers": ["0.28", "28 %"],
    },
    "textvqa": {
        "question_id": 34602, "question": "what does the SIGN say?", "image": PICTURE, "answers": ["stop"] * 8 + ["halt"] * 2,
    },
    "chartqa": {"type": "human_test", "question": "How many bars?", "answer": "14", "image": PICTURE},
    "pope": {"question_id": "1", "question": " Is there a dog? ", "answer": "Yes", "image": PICTURE, "category": "random"},
    "videomme": {
        "videoID": "fFj", "question_id": "001-1", "duration": "short", "question": "Which is the largest?", "answer": "C",
        "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. None."], "task_type": "Counting Problem",
        "domain": "Knowledge",
    },
    "mlvu": {
        "video_name": "movie.mp4", "question": "What colour?\n(A) Yellow\n(B) Red\n(C) Green", "answer": "B",
        "task_type": "plotQA",
    },
    "mvbench": {
        "config": "action_sequence", "video": "ZS9XR.mp4", "question": "What happened?", "start": 1.0, "end": 2.0,
        "candidates": ["Ate.", "Slept.", "Left. "], "answer": "Slept.",
    },
}  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {
    "docvqa": docvqa.BENCHMARK, "textvqa": textvqa.BENCHMARK, "chartqa": chartqa.BENCHMARK, "pope": pope.BENCHMARK,
    "videomme": videomme.BENCHMARK, "mlvu": mlvu.BENCHMARK, "mvbench": mvbench.BENCHMARK,
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Videos as folders of frames: nine frames, three seconds."""
    for folder in ("data/fFj", "movie", "star/Charades_v1_480/ZS9XR"):
        frames(tmp_path / folder)
    return tmp_path


def frames(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(9):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def asked(name: str, protocol: str, base: Path | None = None, number: int = 7, **changes: Any) -> Question:
    return BENCHMARKS[name].question(ROWS[name] | changes, protocol, Origin(name=name, base=base, number=number))


def said(message: Message) -> str:
    """A message's content with its pictures as <image>."""
    return "".join("<image>" if isinstance(part, Media) else part for part in message.content)


def measured(name: str, questions: Sequence[Question], givens: Sequence[Given | str]) -> dict[str, float | None]:
    full = [given if isinstance(given, Given) else Given(text=given, tokens=3) for given in givens]
    scored = BENCHMARKS[name].score(questions, full)
    found = scores([one.sums for one in scored], BENCHMARKS[name].measures)
    return {measure: score.value if score else None for measure, score in found.items()}


# --- what is asked -----------------------------------------------------------------------------------------------------

SHOWN = (  # nine frames at three a second
    "You are provided the following series of three frames from a 0:00:03 [H:MM:SS] video.\n"
    "\nFrame from 00:00:<image>\nFrame from 00:01:<image>\nFrame from 00:02:<image>\n\n"
)
COUNTED = (
    "Here are some frames sampled from a video:\n"
    " Frame from 00:00: <image> Frame from 00:01: <image> Frame from 00:02: <image> \n "
)
ONLY = "respond ONLY with one of the multiple choice letter options (A/B/C/D):"
PROMPTS = {
    ("docvqa", "lmms-eval"): "<image>What is the ‘actual’ value? " + FINISH,
    ("docvqa", "vlmevalkit"): (
        "<image>Give a short and terse answer to the following question. Do not paraphrase or reformat the text you see in the "
        "image. Do not include any full stops. Just give the answer without additional explanation. "
        "Question: What is the ‘actual’ value? " + FINISH
    ),
    ("textvqa", "lmms-eval"): "<image>What does the sign say?" + FINISH,
    ("textvqa", "vlmevalkit"): (
        "<image>Answer the following question about the image using as few words as possible. Follow these additional "
        "instructions:\n-Always answer a binary question with Yes or No.\n-When asked what time it is, reply "
        "with the time seen in "
        "the image.\n-Do not put any full stops at the end of the answer.\n-Do not put quotation marks around the answer.\n-An "
        "answer with one or two words is favorable.\n-Do not apply common sense knowledge. The answer can be "
        "found in the image.\n"
        "Question: what does the SIGN say?" + FINISH
    ),
    ("chartqa", "lmms-eval"): "<image>How many bars?\nAnswer the question with a single word.",
    ("chartqa", "vlmevalkit"): (
        "<image>For the question below, follow the following instructions:\n-The answer should contain as "
        "few words as possible.\n"
        "-Don't paraphrase or reformat the text you see in the image.\n-Answer a binary question with Yes or No.\n-When asked to "
        "give a numerical value, provide a number like 2 instead of Two.\n-If the final answer has two or "
        "more items, provide it in "
        "the list format like [1, 2].\n-When asked to give a ratio, give out the decimal value like 0.25 instead of 1:4.\n-When "
        "asked to give a percentage, give out the whole value like 17 instead of decimal like 0.17%.\n-Don't "
        "include any units in "
        "the answer.\n-Do not include any full stops at the end of the answer.\n-Try to include the full "
        "label from the graph when "
        "asked about an entity.\nQuestion: How many bars?" + FINISH
    ),
    ("pope", "lmms-eval"): "<image>Is there a dog?" + FINISH,
    ("pope", "vlmevalkit"): "<image>Is there a dog? Please answer yes or no.",
    ("videomme", "lmms-eval"): (
        SHOWN + "Select the best answer to the following multiple-choice question based on the video and the "
        "subtitles. Respond with "
        "only the letter (A, B, C, or D) of the correct option.\nWhich is the largest?\nA. Apples.\nB. Candles.\nC. Berries.\n"
        "D. None.\n\nAnswer with the option's letter from the given choices directly."
    ),
    ("videomme", "vlmevalkit"): (
        COUNTED + " These are the frames of a video. Select the best answer to the following multiple-choice question "
        "based on the "
        "video. Respond with only the letter (A, B, C, or D) of the correct option. Question: Which is the largest?\nA. Apples.\n"
        "B. Candles.\nC. Berries.\nD. None.\nAnswer: "
    ),
    ("mlvu", "lmms-eval"): (
        SHOWN + "What colour?\n(A) Yellow\n(B) Red\n(C) Green\nOnly give the best option.\nBest option: ("
    ),
    ("mlvu", "vlmevalkit"): (
        COUNTED + f"Question: What colour?\n{ONLY}\n(A) Yellow\n(B) Red\n(C) Green Only give the best option. "
    ),
    ("mvbench", "lmms-eval"): (
        "You are provided the following series of one frames from a 0:00:01 [H:MM:SS] video.\n\nFrame from 00:00:<image>\n\n"
        "Question:What happened?\nOption:\n(A) Ate.\n(B) Slept.\n(C) Left. \nOnly give the best option.\n"
    ),
    ("mvbench", "vlmevalkit"): (
        "Here are some frames sampled from a video:\n Frame from 00:00: <image> \n "
        f"Question: What happened?\n{ONLY}\n(A) Ate.\n(B) Slept.\n(C) Left. Only give the best option. Answer: "
    ),
}  # fmt: skip
SYSTEMS = {
    "videomme": "pay attention to the video and answer the question ",
    "mlvu": (
        "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option that "
        "accurately addresses the question. "
    ),
    "mvbench": (
        "Carefully watch the video and pay attention to the cause and sequence of events, the detail and "
        "movement of objects, and "
        "the action and pose of persons. Based on your observations, select the best option that accurately addresses the "
        "question.\n "
    ),
}
LENGTHS = {"docvqa": 32, "textvqa": 1024, "chartqa": 16, "pope": 128, "videomme": 16, "mlvu": 16, "mvbench": 16}
IDS = {
    "docvqa": "49153", "textvqa": "34602", "chartqa": "7", "pope": "random/1", "videomme": "001-1", "mlvu": "7",
    "mvbench": "action_sequence/7",
}  # fmt: skip


@pytest.mark.parametrize(("name", "protocol"), PROMPTS)
def test_prompt(name: str, protocol: str, base: Path) -> None:
    question = asked(name, protocol, base)
    *before, user = question.record.messages
    assert (user.role, said(user)) == ("user", PROMPTS[name, protocol])
    system = [Message(role="system", content=(SYSTEMS[name],))] if protocol == "vlmevalkit" and name in SYSTEMS else []
    assert before == system
    assert question.record.responses == ()
    assert question.max_new_tokens == (2048 if protocol == "vlmevalkit" else LENGTHS[name])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_kept_of_a_row(name: str, protocol: str, base: Path) -> None:
    question = asked(name, protocol, base)
    assert question.id == question.record.id == IDS[name]
    assert json.loads(json.dumps(question.facts)) == question.facts
    assert set(BENCHMARKS[name].columns) <= ROWS[name].keys()
    assert BENCHMARKS[name].videos == (name in SYSTEMS)


def test_options(base: Path) -> None:
    found = {
        (name, protocol): asked(name, protocol, base).options
        for name in ("videomme", "mlvu", "mvbench")
        for protocol in PROTOCOLS
    }
    three = ("A", "B", "C")
    assert found == {
        ("videomme", "lmms-eval"): ("A", "B", "C", "D"), ("videomme", "vlmevalkit"): ("A", "B", "C", "D"),
        ("mlvu", "lmms-eval"): three, ("mlvu", "vlmevalkit"): three,
        ("mvbench", "lmms-eval"): ("(A)", "(B)", "(C)"), ("mvbench", "vlmevalkit"): three,
    }  # fmt: skip
    assert asked("docvqa", "lmms-eval").options == ()


def test_pictures_are_found_beside_the_data(tmp_path: Path) -> None:
    question = asked("docvqa", "lmms-eval", tmp_path, image="pages/1.png")
    assert [media.ref for media in question.record.media] == [tmp_path / "pages/1.png"]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("docvqa", {"answers": None}, "no answers; use the validation split"),
        ("textvqa", {"answers": []}, "no answers; use the validation split"),
        ("chartqa", {"image": None}, "a picture given as NoneType"),
        ("pope", {"answer": "maybe"}, "the answer 'maybe'"),
        ("pope", {"category": "rare"}, "categories are random, popular, adversarial"),
        ("videomme", {"answer": "E"}, "give A to D and four options"),
        ("videomme", {"duration": "epic"}, "durations are short, medium, long"),
        ("videomme", {"videoID": "gone"}, "gone.mp4: no such video"),
        ("mlvu", {"answer": "D"}, r"none of the options \(A, B, C\)"),
        ("mlvu", {"question": "What colour?"}, "give the options in the question"),
        ("mlvu", {"task_type": "other"}, "the task type 'other'"),
        ("mvbench", {"answer": "Ran."}, "the answer 'Ran.' to 3 candidates"),
        ("mvbench", {"candidates": ["Slept."] * 6}, "to 6 candidates"),
        ("mvbench", {"config": "dance"}, "the configuration 'dance'"),
    ],
)
def test_rows_that_cannot_be_asked(name: str, changes: dict[str, Any], words: str, base: Path) -> None:
    with pytest.raises(DataError, match=words) as error:
        asked(name, "lmms-eval", base, **changes)
    assert "\n" not in str(error.value)


# --- videos ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "videos", "video", "data"])
@pytest.mark.parametrize("file", ["x.mp4", "x.MP4", "x.mkv", "x.avi", "x.webm", "x"])
@pytest.mark.parametrize("name", ["x", "x.mp4"])
def test_where_videos_are_found(folder: str, file: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / folder / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert videomme.find_video([name], Origin(name="videomme", base=tmp_path)) == path


def test_dots_in_a_videos_name(tmp_path: Path) -> None:
    (tmp_path / "USNP1_1.3_15.4.mp4").touch()
    assert videomme.find_video(["USNP1_1.3_15.4"], Origin(name="videomme", base=tmp_path)).name == "USNP1_1.3_15.4.mp4"


def test_videos_need_a_folder() -> None:
    with pytest.raises(DataError, match="videos without a folder; unpack"):
        asked("videomme", "lmms-eval")


def test_a_video_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "fFj.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError):
        asked("videomme", "lmms-eval", tmp_path)


def names(question: Question) -> list[str]:
    return [media.ref.name for media in question.record.media if isinstance(media.ref, Path)]


def test_start_and_end_are_honoured_in_whole_videos(base: Path) -> None:
    """Seconds 1 to 2 are frames 3 to 5; seconds 0 to 3 are all."""
    assert names(asked("mvbench", "lmms-eval", base)) == ["3.png"]
    assert names(asked("mvbench", "lmms-eval", base, end=3.0)) == ["3.png", "8.png"]
    assert names(asked("mvbench", "lmms-eval", base, start=None, end=None)) == ["0.png", "4.png", "8.png"]


@pytest.mark.parametrize("folder", ["star/Charades_segment/ZS9XR", "video/star/Charades_segment/ZS9XR_1.0_2.0"])
def test_videos_that_are_cut_already_are_shown_whole(folder: str, base: Path) -> None:
    frames(base / folder)
    question = asked("mvbench", "lmms-eval", base)
    assert names(question) == ["0.png", "4.png", "8.png"]
    assert {media.ref.parent for media in question.record.media if isinstance(media.ref, Path)} == {base / folder}


def test_mvbench_videos_elsewhere(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    frames(other / "data0613/star/Charades_v1_480/ZS9XR")
    assert names(asked("mvbench", "lmms-eval", other)) == ["3.png"]
    flat = tmp_path_factory.mktemp("flat")
    frames(flat / "videos/ZS9XR")
    assert names(asked("mvbench", "lmms-eval", flat)) == ["3.png"]


# --- scores ------------------------------------------------------------------------------------------------------------


def test_docvqa_scores() -> None:
    """Of "abcd": exact 1, one letter wrong 3 / 4, two wrong 1 / 2 (0 by the equation), three wrong 0."""
    questions = [asked("docvqa", "lmms-eval", answers=["zzzzzzzzz", "abcd"])] * 4
    found = measured("docvqa", questions, ["ABCD ", "abcx", "abxx", Given(text="axxx", tokens=11)])
    # "ABCD " is one character longer, and no edit away.
    assert found == pytest.approx({"anls": 2.25 / 4, "anls paper": 1.75 / 4, "exact": 0.25, "length": 5.0})


def test_textvqa_scores() -> None:
    """Eight say stop, two say halt: 1, then (2 * 1 / 3 + 8 * 2 / 3) / 10 = 0.6."""
    found = measured("textvqa", [asked("textvqa", "lmms-eval")] * 3, ["The stop.", "halt", "go"])
    assert found == pytest.approx({"accuracy": 1.6 / 3, "length": 3.0})


def test_chartqa_scores() -> None:
    questions = [
        asked("chartqa", "lmms-eval", type=kind) for kind in ("human_test", "human_test", "human_test", "augmented_test")
    ]
    found = measured("chartqa", questions, ["14.5", "fourteen", "15", "14"])
    assert found == pytest.approx({"relaxed": 0.5, "relaxed human": 1 / 3, "relaxed augmented": 1.0, "length": 3.0})


def test_pope_scores() -> None:
    """Three photos with the object and three without it.

                   truth   exact   the authors'
    Yes             yes     yes     yes
    no              yes     no      no
    Yes, it is.     yes     -       yes
    No              no      no      no
    yes             no      yes     yes
    It is empty.    no      -       yes

    Exact: yes is said twice, once rightly; of three due ones, two are answered. Authors: 4 times, 2 rightly, of 3 due ones.
    """
    sets = ["random", "random", "popular", "random", "popular", "popular"]
    questions = [
        asked("pope", "lmms-eval", answer=answer, category=category)
        for answer, category in zip(["yes"] * 3 + ["no"] * 3, sets, strict=True)
    ]
    found = measured("pope", questions, ["Yes", "no", "Yes, it is.", "No", "yes", "It is empty."])
    expected = {
        "accuracy": 2 / 6, "precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "yes-rate": 2 / 6, "unreadable": 2 / 6,
        "accuracy random": 2 / 3, "f1 random": 2 / 3, "accuracy popular": 0.0, "f1 popular": 0.0,
        "accuracy official": 3 / 6, "precision official": 2 / 4, "recall official": 2 / 3, "f1 official": 4 / 7,
        "yes-rate official": 4 / 6, "accuracy official random": 2 / 3, "f1 official random": 2 / 3,
        "accuracy official popular": 1 / 3, "f1 official popular": 1 / 2, "length": 3.0,
    }  # fmt: skip
    nothing = {f"{name} adversarial": None for name in ("accuracy", "f1", "accuracy official", "f1 official")}
    assert {name: value for name, value in found.items() if value is not None} == pytest.approx(expected)
    assert {name: value for name, value in found.items() if value is None} == nothing


def test_pope_without_any_yes() -> None:
    found = measured("pope", [asked("pope", "lmms-eval", answer="no")] * 2, ["no", "No"])
    assert (found["accuracy"], found["precision"], found["recall"], found["f1"]) == (1.0, None, None, None)


def test_pope_ids_differ_where_question_ids_do_not() -> None:
    ids = {asked("pope", "lmms-eval", category=category).id for category in pope.CATEGORIES}
    assert ids == {"random/1", "popular/1", "adversarial/1"}


def given(text: str, *logprobs: float) -> Given:
    return Given(text=text, tokens=2, logprobs=logprobs)


def test_videomme_scores(base: Path) -> None:
    """The right answer is C. A tie is wrong by log-prob, and without log-probs a question does not count there."""
    durations = ["short", "short", "long", "long"]
    questions = [asked("videomme", "vlmevalkit", base, duration=duration) for duration in durations]
    givens = [
        given("C. Berries.", -1, -2, -0.5, -3),
        given("", -1, -2, -0.5, -0.5),
        given("The answer is (B).", -1, -2, -0.5, -3),
        given("c"),
    ]
    found = measured("videomme", questions, givens)
    assert found == pytest.approx(
        {
            "accuracy": 1 / 4, "accuracy short": 1 / 2, "accuracy medium": None, "accuracy long": 0.0,
            "accuracy by log-prob": 2 / 3, "accuracy by log-prob short": 1 / 2, "accuracy by log-prob medium": None,
            "accuracy by log-prob long": 1.0, "unreadable": 2 / 4, "length": 2.0,
        }
    )  # fmt: skip
    scored = BENCHMARKS["videomme"].score(questions, givens)
    assert [one.read for one in scored] == ["C", "", "B", ""]


@pytest.mark.parametrize(
    ("text", "videomme_right", "mvbench_right"),  # the right answer is B
    [
        ("The answer is (B).", True, True),
        ("B) cats", True, True),
        ("A or B", False, False),
        ("Both A and B", True, False),
        ("", False, False),
        ("None", False, False),
        ("I think A dog, so B", True, False),
        ("b", False, True),
    ],
)
def test_odd_answers(text: str, videomme_right: bool, mvbench_right: bool, base: Path) -> None:
    first = measured("videomme", [asked("videomme", "lmms-eval", base, answer="B")], [text])
    second = measured("mvbench", [asked("mvbench", "lmms-eval", base)], [text])
    assert (first["accuracy"], second["accuracy"]) == (videomme_right, mvbench_right)


def test_mlvu_macro_and_micro(base: Path) -> None:
    """Three of three on plots and none of one on counts: (1 + 0) / 2 and 3 / 4."""
    kinds = ["plotQA", "plotQA", "plotQA", "count"]
    questions = [asked("mlvu", "lmms-eval", base, task_type=kind) for kind in kinds]
    found = measured("mlvu", questions, [given(text, -2, -1, -3) for text in ("B", "B) Red", "(B)", "A")])
    assert (found["accuracy macro"], found["accuracy"], found["accuracy plotQA"]) == (0.5, 0.75, 1.0)
    assert (found["accuracy by log-prob macro"], found["accuracy by log-prob"]) == (1.0, 1.0)
    assert (found["accuracy count"], found["accuracy ego"]) == (0.0, None)


def test_mlvu_takes_the_options_that_a_question_has(base: Path) -> None:
    six = "\n".join(f"({name}) {number}" for number, name in enumerate("ABCDEF"))
    question = asked("mlvu", "lmms-eval", base, question=f"Not (A) nor (B)?\n{six}", answer="F", task_type="sportsQA")
    assert question.options == tuple("ABCDEF")
    assert measured("mlvu", [question], ["F"])["accuracy"] == 1.0
    asked_so = said(asked("mlvu", "vlmevalkit", base, question=f"Not (A) nor (B)?\n{six}", answer="F").record.messages[1])
    assert f"Question: Not (A) nor (B)?\n{ONLY}\n(A) 0\n" in asked_so


def test_mvbench_with_and_without_empty_answers(base: Path) -> None:
    """One kind 1 of 2, whose other answer is empty, the other 0 of 1: (1/2 + 0) / 2 and, empty left out, (1 + 0) / 2."""
    frames(base / "movie/b")
    questions = [asked("mvbench", "lmms-eval", base)] * 2 + [
        asked("mvbench", "lmms-eval", base, config="state_change", video="movie", start=None, end=None)
    ]
    found = measured("mvbench", questions, [given("(B) Slept.", -1, -1, -2), given("", -3, -1, -2), given("C", -1, -2, -3)])
    assert (found["accuracy macro"], found["accuracy macro, empty left out"], found["accuracy"]) == (0.25, 0.5, 1 / 3)
    assert (found["accuracy by log-prob macro"], found["accuracy by log-prob"]) == (0.25, 1 / 3)
    assert (found["accuracy action_sequence"], found["accuracy state_change"]) == (0.5, 0.0)
    assert found["unreadable"] == pytest.approx(1 / 3)


def test_mvbench_takes_the_first_of_equal_candidates(base: Path) -> None:
    assert asked("mvbench", "lmms-eval", base, candidates=["Ate.", "Slept.", "Slept."]).facts["answer"] == "B"


def test_mvbench_has_twenty_kinds() -> None:
    assert len(set(mvbench.BENCHMARK.configs)) == 20


def test_log_probs_that_do_not_fit_the_options(base: Path) -> None:
    with pytest.raises(AssertionError, match="2 log-probs for 4 options"):
        measured("videomme", [asked("videomme", "lmms-eval", base)], [given("A", -1, -2)])
