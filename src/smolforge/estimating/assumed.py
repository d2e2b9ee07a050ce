"""What no file of a run tells: shares of published rates, speeds of links and disks, sizes of pictures and texts.

All of it stands here and is printed beside the numbers that it goes into, so that whoever knows better sees what to correct.
"""

from __future__ import annotations

from dataclasses import dataclass

from smolforge.estimating.gpus import UTILISATION


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """Conventions, published figures, and times that were measured on a CPU. Nothing here was measured on a GPU."""

    utilisation: float = UTILISATION
    """Share of a GPU's published peak that a step's operations reach, those among them that are computed again. A convention."""
    link_share: float = 0.7
    """Share of a link's published rate that processes get through it. A convention: 230 to 250 of 300 GB/s are reported for large
    messages between eight A100 (nccl-tests, docs.alayanew.com, 2026-05), and a layer here is a small message."""
    network: float = 400.0
    """Gbit/s out of a machine, all its adapters together, where nobody says otherwise. Published for eight A100 of 40 GB (Amazon
    EC2 P4d, 2020-11)."""
    disk: float = 1e9
    """Bytes a second at which a checkpoint is written: a round number."""
    render_ms: float = 1.0
    """Milliseconds of a core to read an example and lay out its tokens; every rank does so for all of a step. Measured:
    85 COCO photos with captions, one core of a busy AMD EPYC, its own time alone, 2026-11."""
    video_ms: float = 17.0
    """Milliseconds of a core for each video of an example besides: all its packets are read for their times, and its content is
    named; every rank does so for all of a step. Measured: a clip of 32 s and 7 MB, the same core; 10 ms for 13 s and 0.7 MB,
    50 ms for 120 s and 26 MB."""
    tile_ms: float = 11.0
    """Milliseconds of a core to decode a picture, cut it and put it into a row, by tile of 512 pixels. Measured: the same."""
    frame_ms: float = 30.0
    """Milliseconds of a core to decode a video and make tiles, by frame that is seen. Measured: 8 of 250 frames of 640 x
    360 noise, the same core; a video that is seen more densely costs less by frame."""
    picture_bytes: float = 300e3
    """Of an encoded picture, where no data is at hand: a round number."""
    video_bytes: float = 125e3
    """Of a second of video, where no data is at hand: 1 Mbit/s, a round number."""
    pictures: int = 3
    """Of an example with several, where no data is at hand."""
    text_tokens: int = 1024
    """Of an example without pictures, where no data is at hand."""


ASSUMED = Assumed()
