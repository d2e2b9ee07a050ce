"""A record as a row of its own: the bytes of its pictures, its videos in the folder, and the JSON that names them."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from PIL.Image import Image

from smolforge.data.media import Drawing, open_picture, read_encoded
from smolforge.data.sources.prepared import Kept, Row, frame_name, text_of
from smolforge.errors import MediaError
from smolforge.records import Film, Media, Record, Video, fingerprint

VIDEOS = "videos"
ONE_AT_A_TIME = Lock()  # rows that are prepared side by side may share a video
NAME = 24  # letters of a fingerprint that name a file: 96 bits


@dataclass(kw_only=True)
class Keeper:
    """Keeps the media of one row.

    Args:
        folder: the prepared folder.
        max_pixels: pictures with more are refused, as in training.
    """

    folder: Path
    max_pixels: int
    images: list[bytes] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    copied: int = 0  # bytes of videos that could not be linked

    def row(self, record: Record, asked: Record) -> Row:
        """Row of a record, without its number, tokens and tiles.

        Args:
            asked: the same record with `SLOT` as its prompt.

        Raises:
            DataError: a picture is damaged, or a video is missing.
        """
        text = text_of(record, asked, picture=self._picture, video=self._video)
        return {"record": text, "images": self.images, "videos": self.videos}

    # --- pictures ------------------------------------------------------------------------------------------------

    def _picture(self, media: Media) -> Kept:
        ref = media.ref
        if callable(ref) and not isinstance(ref, Drawing):
            ref = ref()
        kept: Kept = {"image": len(self.images)} | ({} if media.split else {"split": False})
        if isinstance(ref, Image | Drawing):
            picture = open_picture(Media(ref=ref), max_pixels=self.max_pixels)
            buffer = io.BytesIO()
            picture.pixels().save(buffer, "PNG")
            self.images.append(buffer.getvalue())
            return kept | {"drawn": {"key": picture.key, "size": [picture.width, picture.height]}}
        assert not callable(ref)
        data = read_encoded(ref)
        try:
            open_picture(Media(ref=data), max_pixels=self.max_pixels).pixels()  # what cannot be decoded is met now
        except MediaError as error:
            where = (error.where or "").replace(str(Media(ref=data)), str(media))
            raise MediaError(error.what, where=where, mend=error.mend) from error
        self.images.append(data)
        return kept

    # --- videos --------------------------------------------------------------------------------------------------

    def _video(self, video: Video) -> Kept:
        with ONE_AT_A_TIME:
            return self._kept_video(video)

    def _kept_video(self, video: Video) -> Kept:
        kept: Kept = {"video": len(self.videos)}
        if video.start is not None:
            kept["start"] = video.start
        if video.end is not None:
            kept["end"] = video.end
        if isinstance(video.ref, bytes):
            name = f"{fingerprint(video.ref)[:NAME]}.video"
            self._write(name, video.ref)
        elif isinstance(video.ref, Path):
            name = self._linked(video.ref)
            if video.ref.is_dir():
                kept["folder_fps"] = video.folder_fps
        else:
            film = video.ref
            name = fingerprint(film.key)[:NAME]
            self._drawn(name, film)
            kept["film"] = {"key": film.key, "size": list(film.size), "frames": film.num_frames, "fps": film.fps}
        self.videos.append(f"{VIDEOS}/{name}")
        return kept

    def _place(self, name: str) -> Path:
        place = self.folder / VIDEOS / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _write(self, name: str, data: bytes) -> None:
        place = self._place(name)
        if not place.exists():
            draft = _draft(place)
            draft.write_bytes(data)
            draft.replace(place)
            self.copied += len(data)

    def _linked(self, path: Path) -> str:
        """Name of a video file, or folder of frames, that now lies in the folder too."""
        try:
            whole = path.resolve(strict=True)
            state = whole.stat()
        except FileNotFoundError as error:
            raise MediaError("no such video", where=path, mend="check the path") from error
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise MediaError(f"cannot be read ({why})", where=ascii(str(path)), mend="check the path") from error
        name = fingerprint(str(whole), state.st_mtime_ns, state.st_size)[:NAME]
        if not whole.is_dir():
            name += whole.suffix.lower()
            self._link(whole, self._place(name))
            return name
        place = self._place(name)
        if not place.exists():
            draft = _draft(place)
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            for file in whole.iterdir():
                if file.is_file():
                    self._link(file.resolve(), draft / file.name)
            draft.rename(place)
        return name

    def _link(self, file: Path, place: Path) -> None:
        if place.exists():
            return
        try:
            os.link(file, place)
        except OSError:  # another disk, or one without links
            draft = _draft(place)
            shutil.copyfile(file, draft)
            draft.replace(place)
            self.copied += file.stat().st_size

    def _drawn(self, name: str, film: Film) -> None:
        place = self._place(name)
        if place.exists():
            return
        draft = _draft(place)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for number in range(film.num_frames):
            film.frame(number).convert("RGB").save(draft / frame_name(number))
            self.copied += (draft / frame_name(number)).stat().st_size
        draft.rename(place)


def _draft(place: Path) -> Path:
    return place.with_name(f".{place.name}.draft")
