"""Data sets of videos with layouts of their own: FineVideo, Vript, MovieChat, ShareGPT4Video.

HuggingFaceFV/finevideo, a Parquet table with the videos in it:

    {"mp4": b"...", "json": {"content_fine_category": "Engineering Projects", "duration_seconds": 208,
     "content_metadata": {"description": "The video ...", "fps": 23.976, "qAndA": [{"question": "What ...?", "answer": "..."}],
      "characterList": [...], "scenes": [{"title": "...", "activities": [{"description": "...",
       "timestamp": {"start_timestamp": "00:00:00.000", "end_timestamp": "00:00:04.000"}}], ...}]}, "text_to_speech": "..."}}

Mutonix/Vript, a line a clip (or a JSON object a video, with its clips in `data`):

    {"meta": {"video_id": "339dXVNQXac", "video_title": "..."}, "clip_id": "339dXVNQXac-Scene-001", "voiceover": ["..."],
     "caption": {"shot_type": "Medium shot", "camera_movement": "Static", "content": "A woman ...", "scene_title": "..."}}

The caption is `content`; `shot_type` is two words, and a public recipe trains on it by mistake.

Enxin/MovieChat-1K_train, a JSON object a film:

    {"info": {"video_path": "1.mp4", "fps": 24, "num_frame": 14000}, "caption": "The film ...",
     "global": [{"question": "When does it happen?", "answer": "Night."}],
     "breakpoint": [{"time": 1032, "question": "What does he do now?", "answer": "Runs."}]}

Questions of `breakpoint` are about one moment, which the question does not name; they are left out.

ShareGPT4Video/ShareGPT4Video, a line a video:

    {"video_id": "abc", "video_path": "panda/abc.mp4", "timestamp": [0, 2, 4], "keyframe": [0, 48, 96],
     "zip_folder": "panda_videos_1.zip",
     "captions": [{"idx": "1", "content": "The first frame ..."}, {"idx": "-1", "content": "The video ..."}]}

The caption with `idx` -1 is that of the whole video; the others compare single frames, which the model does not see as such.

Sources: the data sets' cards, the Vript repository's DATA.md, and public loaders of each; `info`'s other columns and FineVideo's
scenes could not be looked at and are not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smolforge.data.sources import shapes
from smolforge.errors import DataError
from smolforge.records import Record

DETAIL_PROMPT = "Describe this video in detail."
MEND = "download the file again"


def finevideo(row: dict[str, Any], *, id: str, source: str, prompt: str | None = None, **options: Any) -> Record:
    """Row -> Record: the description, then each question, as turns about the video."""
    told = row["json"]["content_metadata"]
    return _asked(row["mp4"], told.get("description"), told.get("qAndA"), prompt, id=id, source=source, **options)


def vript(row: dict[str, Any], *, id: str, source: str, prompt: str | None = None, **options: Any) -> Record:
    """Row -> Record: a clip, which lies below its video's folder, and its description."""
    clip = row["clip_id"]
    film = row["meta"]["video_id"] if "meta" in row else row["video_id"]
    shown = {"id": clip, "video": f"{film}/{clip}.mp4", "caption": row["caption"]["content"]}
    return shapes.record(shown, id=id, source=source, prompt=prompt or DETAIL_PROMPT, **options)


def moviechat(row: dict[str, Any], *, id: str, source: str, prompt: str | None = None, **options: Any) -> Record:
    """Row -> Record: the caption, then each question about the whole film, as turns."""
    path = row["info"]["video_path"]
    return _asked(path, row.get("caption"), row.get("global"), prompt, id=Path(path).stem, source=source, **options)


def sharegpt4video(row: dict[str, Any], *, id: str, source: str, prompt: str | None = None, **options: Any) -> Record:
    """Row -> Record: the caption of the whole video."""
    caption = next((one["content"] for one in row["captions"] if str(one["idx"]) == "-1"), None)
    if caption is None:
        raise DataError("no caption of the whole video", mend=MEND)
    shown = {"video": row["video_path"], "caption": caption}
    return shapes.record(shown, id=id, source=source, prompt=prompt or DETAIL_PROMPT, **options)


def _asked(
    film: Any,
    caption: str | None,
    questions: list[dict[str, str]] | None,
    prompt: str | None,
    *,
    id: str,
    source: str,
    **options: Any,
) -> Record:
    """A video with its description and questions as turns."""
    asked = [(prompt or DETAIL_PROMPT, caption)] if caption and caption.strip() else []
    asked += [(one["question"], one["answer"]) for one in questions or ()]
    if not asked:
        raise DataError("neither a description nor questions", mend=MEND)
    turns = [{"role": role, "content": text} for pair in asked for role, text in zip(("user", "assistant"), pair, strict=True)]
    return shapes.record({"video": film, "messages": turns}, id=id, source=source, **options)
