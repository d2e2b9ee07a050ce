"""MVBench: twenty kinds of questions about short videos that one frame does not answer, 200 each.

Li et al. 2024 (arXiv 2311.17005). Rows come in one configuration a kind, videos apart from them. A row of action_sequence, whose
question is about seconds 11.1 to 19.6 of the video:

    {"video": "ZS9XR.mp4", "question": "What happened after the person took the food?", "start": 11.1, "end": 19.6,
     "candidates": ["Ate the medicine.", "Tidied up the blanket.", "Put down the cup/glass/bottle.", "Took the box."],
     "answer": "Ate the medicine."}

The videos exist in two forms. lmms-eval uses those of the dataset's revision "video": what has a start and an end is cut already
and lies in folders named *_segment, where `start` and `end` are left alone. Elsewhere they are honoured.

lmms-eval (mvbench) allows 16 tokens and asks

    Question:What happened after the person took the food?
    Option:
    (A) Ate the medicine.
    ...
    Only give the best option.

with a newline at the end. VLMEvalKit (MVBench, SmolVLM2's prompt) allows 2,048, has MVBench's system message and asks

    Question: What happened after the person took the food?
    respond ONLY with one of the multiple choice letter options (A/B/C/D):
    (A) Ate the medicine.
    ...
    (D) Took the box. Only give the best option. Answer:

"accuracy macro" is the mean of the kinds' accuracies, MVBench's score, and the same as "accuracy" when every kind is asked alike.
lmms-eval leaves empty answers out of each kind's accuracy, which raises it: "accuracy macro, empty left out".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored
from smolforge.evals.choosing import best_option_prompt, choice_counts, choice_measures, macro_measures
from smolforge.evals.measures import Measure
from smolforge.evals.metrics.choices import macro, mvbench_letter
from smolforge.evals.reading import text, texts
from smolforge.evals.videos import find_video, video_messages
from smolforge.records import Record

SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of objects, "
    "and the action and pose of persons. Based on your observations, select the best option that accurately addresses the "
    "question.\n "
)
MAX_NEW_TOKENS: dict[Protocol, int] = {"lmms-eval": 16, "vlmevalkit": 2048}
LETTERS = "ABCDE"
CUT = "_segment"  # how folders of videos that are cut already end

# Where each kind's videos lie: as lmms-eval has them, then whole ones as the authors' first release has them.
VIDEOS = {
    "action_sequence": ("star/Charades_segment", "star/Charades_v1_480"),
    "moving_count": ("clevrer/video_validation",),
    "action_prediction": ("star/Charades_segment", "star/Charades_v1_480"),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment", "tvqa/frames_fps3_hq"),
    "action_antonym": ("ssv2_video_mp4", "ssv2_video"),
    "action_count": ("perception/videos",),
    "scene_transition": ("scene_qa/video",),
    "object_shuffle": ("perception/videos",),
    "object_existence": ("clevrer/video_validation",),
    "fine_grained_pose": ("nturgbd_convert", "nturgbd"),
    "unexpected_action": ("FunQA_test/test",),
    "moving_direction": ("clevrer/video_validation",),
    "state_change": ("perception/videos",),
    "object_interaction": ("star/Charades_segment", "star/Charades_v1_480"),
    "character_order": ("perception/videos",),
    "action_localization": ("sta/sta_video_segment", "sta/sta_video"),
    "counterfactual_inference": ("clevrer/video_validation",),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "moving_attribute": ("clevrer/video_validation",),
    "egocentric_navigation": ("vlnqa",),
}
KINDS = tuple(VIDEOS)


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked; its kind and number are its id.

    Raises:
        DataError: no such video, an answer that is none of the candidates, more than five of them, or an unknown kind.
    """
    kind = text(row, "config", f"{origin.name}[{origin.number}]")
    id = f"{kind}/{origin.number}"
    where = f"{origin.name}[{id}]"
    if kind not in KINDS:
        raise DataError(f"the configuration {kind!r}", where=where, mend=f"configurations are {', '.join(KINDS)}")
    asked, answer, candidates = text(row, "question", where), text(row, "answer", where), texts(row, "candidates", where)
    if answer not in candidates or len(candidates) > len(LETTERS):
        mend = f"give the answer's words as they stand among at most {len(LETTERS)} candidates"
        raise DataError(f"the answer {answer!r} to {len(candidates)} candidates", where=where, mend=mend)
    letters = tuple(LETTERS[: len(candidates)])
    if protocol == "lmms-eval":
        listed = "\n".join(f"({name}) {words}" for name, words in zip(letters, candidates))
        prompt = f"Question:{asked}\nOption:\n{listed}\nOnly give the best option.\n"
    else:
        prompt = best_option_prompt(asked, zip(letters, candidates)) + "Answer: "
    path, start, end = clip(row, kind, origin)
    messages = video_messages(path, prompt, protocol, system=SYSTEM, start=start, end=end)
    return Question(
        id=id,
        record=Record(id=id, source=origin.name, messages=messages, responses=()),
        max_new_tokens=MAX_NEW_TOKENS[protocol],
        facts={
            "question": asked, "choices": candidates, "letters": list(letters), "type": kind, "video": row["video"],
            "answer": letters[candidates.index(answer)],
        },
        options=tuple(f"({name})" for name in letters) if protocol == "lmms-eval" else letters,
    )  # fmt: skip


def clip(row: Row, kind: str, origin: Origin) -> tuple[Path, float | None, float | None]:
    """A row's video and the seconds from which and to which it is shown, None for all of it.

    Raises:
        DataError: no such video.
    """
    name, start, end = text(row, "video", f"{origin.name}[{kind}/{origin.number}]"), row.get("start"), row.get("end")
    names = [name] if start is None else [name, f"{Path(name).stem}_{start}_{end}"]  # the second: cut, of rows that are not
    folders = [*VIDEOS[kind], *(f"data0613/{folder}" for folder in VIDEOS[kind]), ""]
    path = find_video(names, origin, folders=folders)
    cut = path.parent.name.endswith(CUT) or any(path.name.startswith(bounded) for bounded in names[1:])
    return (path, None, None) if cut else (path, start, end)


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    return [
        choice_counts(asked, given, mvbench_letter(given.text), asked.facts["type"])
        for asked, given in zip(questions, givens, strict=True)
    ]


BENCHMARK = Benchmark(
    about="twenty kinds of questions about change in short videos (MVBench)",
    source="Li et al. 2024, arXiv 2311.17005; scored as lmms-eval's mvbench",
    hub="OpenGVLab/MVBench",
    configs=KINDS,
    split="train",
    revision="video",
    columns=("config", "video", "question", "candidates", "answer"),
    question=question,
    score=score,
    measures=macro_measures(KINDS)
    | {
        "accuracy macro, empty left out": Measure(
            about="mean of the kinds' accuracies of answers that are not empty, lmms-eval's", of=macro("right", "spoken", KINDS)
        )
    }
    | choice_measures(KINDS),
    videos=True,
)
