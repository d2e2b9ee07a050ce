"""Data sets in LLaVA's form: `conversations` of `human` and `gpt`, with `image` (a path, several, or none) or `video`.

Rows:

    {"id": "ai2d_0", "image": <picture>, "conversations": [{"from": "human", "value": "<image>\\nWhich planet?"},
     {"from": "gpt", "value": "Mars."}], "data_source": "ai2d(gpt4v)"}                               LLaVA-OneVision-Data
    {"id": 7, "image": ["a/1.jpg", "a/2.jpg"], "conversations": [...], "source": "nlvr2"}       MAmmoTH-VL, `image` or `video`
    {"sample_id": "nlvr2_5", "image": ["nlvr2/images/1.jpg", ...], "conversations": [...], "metadata": {...}}    M4-Instruct-Data
    {"id": "v_1", "video": "academic_source/Charades/AB12.mp4", "data_source": "0_30_s_academic_v0_1",
     "conversations": [{"from": "human", "value": "<image>\\nWhat does she hold?"}, ...]}              LLaVA-Video-178K

`<image>` in a row of a video stands for the video. A placeholder that is repeated at the head of later questions about the same
picture or video is dropped. Sources: the data sets' cards, and the loader of LLaVA-NeXT; those of Video-STaR, VISTA-400K and
MAmmoTH-VL's video rows could not be looked at, their rows are taken to be LLaVA's.
"""

from __future__ import annotations

import re
from typing import Any

from smolforge.data.sources import shapes
from smolforge.records import Record

MARK = re.compile(r"<(?:image|video)>\n?")

# 83, as many as its viewer lists; the first 40 were read there. ureader_* and evol_instruct are archives in the same repository.
ONEVISION = (
    "CLEVR-Math(MathV360K)", "FigureQA(MathV360K)", "GEOS(MathV360K)", "GeoQA+(MathV360K)", "Geometry3K(MathV360K)",
    "IconQA(MathV360K)", "MapQA(MathV360K)", "PMC-VQA(MathV360K)", "Super-CLEVR(MathV360K)", "TabMWP(MathV360K)",
    "UniGeo(MathV360K)", "VisualWebInstruct(filtered)", "VizWiz(MathV360K)", "ai2d(cauldron,llava_format)", "ai2d(gpt4v)",
    "ai2d(internvl)", "allava_instruct_laion4v", "allava_instruct_vflan4v", "aokvqa(cauldron,llava_format)",
    "chart2text(cauldron)", "chartqa(cauldron,llava_format)", "chrome_writting", "clevr(cauldron,llava_format)",
    "diagram_image_to_text(cauldron)", "dvqa(cauldron,llava_format)", "figureqa(cauldron,llava_format)", "geo170k(align)",
    "geo170k(qa)", "geo3k", "geomverse(cauldron)", "hateful_memes(cauldron,llava_format)", "hitab(cauldron,llava_format)",
    "hme100k", "iam(cauldron)", "iconqa(cauldron,llava_format)", "iiit5k", "image_textualization(filtered)",
    "infographic(gpt4v)", "infographic_vqa", "infographic_vqa_llava_format", "intergps(cauldron,llava_format)",
    "k12_printing", "llava_wild_4v_12k_filtered", "llava_wild_4v_39k_filtered", "llavar_gpt4_20k", "lrv_chart",
    "lrv_normal(filtered)", "magpie_pro(l3_80b_mt)", "magpie_pro(l3_80b_st)", "magpie_pro(qwen2_72b_st)",
    "mapqa(cauldron,llava_format)", "mathqa", "mavis_math_metagen", "mavis_math_rule_geo", "multihiertt(cauldron)",
    "orand_car_a", "raven(cauldron)", "rendered_text(cauldron)", "robut_sqa(cauldron)", "robut_wikisql(cauldron)",
    "robut_wtq(cauldron,llava_format)", "scienceqa(cauldron,llava_format)", "scienceqa(nona_context)",
    "screen2words(cauldron)", "sharegpt4o", "sharegpt4v(coco)", "sharegpt4v(knowledge)", "sharegpt4v(llava)",
    "sharegpt4v(sam)", "sroie", "st_vqa(cauldron,llava_format)", "tabmwp(cauldron)", "tallyqa(cauldron,llava_format)",
    "textcaps", "textocr(gpt4v)", "tqa(cauldron,llava_format)", "vision_flan(filtered)", "vistext(cauldron)",
    "visual7w(cauldron,llava_format)", "visualmrc(cauldron)", "vqarad(cauldron,llava_format)", "vsr(cauldron,llava_format)",
    "websight(cauldron)",
)  # fmt: skip
VIDEO = (  # as its viewer lists them
    "0_30_s_academic_v0_1", "0_30_s_youtube_v0_1", "0_30_s_activitynet", "0_30_s_perceptiontest", "0_30_s_nextqa",
    "30_60_s_academic_v0_1", "30_60_s_youtube_v0_1", "30_60_s_activitynet", "30_60_s_perceptiontest", "30_60_s_nextqa",
    "1_2_m_academic_v0_1", "1_2_m_youtube_v0_1", "1_2_m_activitynet", "1_2_m_nextqa",
    "2_3_m_academic_v0_1", "2_3_m_youtube_v0_1", "2_3_m_activitynet", "2_3_m_nextqa", "llava_hound",
)  # fmt: skip


def record(row: dict[str, Any], *, id: str, source: str, **options: Any) -> Record:
    """Row -> Record."""
    kept = {name: row[name] for name in ("image", "video") if row.get(name)}
    ids = [row[name] for name in ("id", "sample_id") if row.get(name) is not None]
    turns = row["conversations"]
    if sum(len(value) if isinstance(value, list | tuple) else 1 for value in kept.values()) == 1:
        turns = once(turns)
    return shapes.record({"id": ids[0] if ids else id, "conversations": turns} | kept, id=id, source=source, **options)


def once(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """Turns with no placeholder after the first that stands in one of them.

    >>> [turn["value"] for turn in once([{"from": "human", "value": "<image>\\nA?"}, {"from": "human", "value": "<image>\\nB?"}])]
    ['<image>\\nA?', 'B?']
    """
    seen, kept = False, []
    for turn in turns:
        marked = bool(MARK.search(turn["value"]))
        drop = seen and marked and turn["from"] == "human"
        kept.append(turn | {"value": MARK.sub("", turn["value"])} if drop else turn)
        seen = seen or marked
    return kept
