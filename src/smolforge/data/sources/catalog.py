"""The data sets that smolforge knows by name: what they hold, where they are, how large they are, who may use them.

Sizes and licences are the publishers' words, for a person to check; nothing is decided by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smolforge.data.sources import captions, cauldron, clips, llava, m3it, scenes, shapes
from smolforge.data.sources import films as films_of
from smolforge.data.sources.fixtures import films, pairs, pictures, texts
from smolforge.data.sources.rows import Row, ToRecord
from smolforge.recipe import Modality
from smolforge.records import Record


@dataclass(frozen=True, kw_only=True)
class NamedSource:
    """A data set that smolforge knows by name."""

    about: str  # one line
    record: ToRecord
    modality: Modality  # what most rows hold
    fixture: Callable[[Path], list[Row]]  # a few rows in the real schema; what they name by path is drawn into the folder
    hub: str | None = None  # its name on the Hub
    needs_name: bool = False  # has configurations and no default
    configs: tuple[str, ...] = ()  # configurations, for `all` and for lists
    splits: tuple[str, ...] = ("train",)
    rows: int | None = None  # as published; None: unknown
    gigabytes: float | None = None  # of the whole repository, roughly; None: unknown
    licence: str = "not stated"  # a note for a person
    gated: bool = False  # the publisher's terms are accepted on the Hub first
    annotations: tuple[
        str, ...
    ] = ()  # where the Hub has no table with everything in it: patterns of the JSON files that hold the
    # rows, the first that finds any
    archives: tuple[str, ...] = ()  # patterns of tar and zip files with the pictures or videos that rows name
    roots: tuple[str, ...] = ("",)  # folders below `dir` that rows' paths may start from, in this order
    called: Mapping[str, str] = field(
        default_factory=dict
    )  # configuration or split -> its annotations' file names: patterns, with |
    whole_split: str | None = None  # the one split as which it is published, where a row's column `split` tells the real ones
    note: str = ""  # what a user must know


def modality_of(record: Record) -> Modality:
    """What a record holds.

    >>> from smolforge.records import Media, Message
    >>> user = Message(role="user", content=(Media(ref="a.jpg"), "What?"))
    >>> modality_of(Record(id="0", source="s", messages=(user,), responses=()))
    'image'
    """
    if record.videos:
        return "video"
    pictures = len(record.media)
    return "text" if not pictures else "image" if pictures == 1 else "multi_image"


def name_of(source: str) -> str | None:
    """Name here of a source that is called by its name here or on the Hub; None of any other, and of a path that exists.

    >>> name_of("HuggingFaceM4/the_cauldron"), name_of("the_cauldron"), name_of("pairs.jsonl")
    ('the_cauldron', 'the_cauldron', None)
    """
    if source in SOURCES:
        return source
    if Path(source).expanduser().exists():
        return None
    return next((name for name, one in SOURCES.items() if one.hub == source), None)


DRAWN = "drawn by smolforge"
COCO = "COCO's pictures are not included: unpack train2017.zip, from cocodataset.org, into the folder"

SOURCES: dict[str, NamedSource] = {
    # --- drawn here ---
    "scenes": NamedSource(
        about="drawn scenes of one to three coloured shapes, made on demand", record=scenes.record, modality="image",
        fixture=pictures.scenes, splits=("train", "test"), rows=100_000, gigabytes=0.0, licence=DRAWN,
    ),
    "scene_pairs": NamedSource(
        about="the same with a false caption as rejected", record=scenes.record, modality="image", fixture=pairs.scene_pairs,
        splits=("train", "test"), rows=100_000, gigabytes=0.0, licence=DRAWN,
    ),
    "clips": NamedSource(
        about="drawn clips of one moving shape, whose way only the order of frames tells", record=clips.record, modality="video",
        fixture=films.clips, splits=("train", "test"), rows=100_000, gigabytes=0.0, licence=DRAWN,
    ),
    # --- pictures: questions and instructions ---
    "the_cauldron": NamedSource(
        about="50 collections of pictures with questions and answers (name: ai2d, vqav2, ...)",
        record=cauldron.record, modality="image", fixture=pictures.cauldron, hub="HuggingFaceM4/the_cauldron", needs_name=True,
        configs=cauldron.CONFIGS, rows=1_880_000, gigabytes=169,
        licence="each collection's own; the prompts CC-BY-4.0",
        note="spot_the_diff, nlvr2 and others have two pictures a row; mimic_cgd pairs too",
    ),
    "docmatix": NamedSource(
        about="questions about pages of PDF documents (name: images, zero-shot-exp)", record=cauldron.record, modality="image",
        fixture=pictures.cauldron, hub="HuggingFaceM4/Docmatix", needs_name=True, configs=("images", "zero-shot-exp"),
        rows=1_270_000, gigabytes=560, licence="MIT",
        note="the configuration pdf has documents instead of pages and is refused; rows of several pages are long",
    ),
    "llava_onevision": NamedSource(
        about="LLaVA-OneVision's pictures with instructions, some text only (name: ai2d(gpt4v), sharegpt4o, ...)",
        record=llava.record, modality="image", fixture=pictures.onevision, hub="lmms-lab/LLaVA-OneVision-Data", needs_name=True,
        configs=llava.ONEVISION, rows=3_940_000, gigabytes=None, licence="each collection's own; Apache-2.0 for the whole",
        note="ureader_* and evol_instruct are archives there, not configurations; the list of these is half from memory",
    ),
    "mammoth_vl": NamedSource(
        about="12M instructions with reasons, written by open models: one picture, several, none, or a video",
        record=llava.record, modality="image", fixture=pictures.mammoth, hub="MAmmoTH-VL/MAmmoTH-VL-Instruct-12M",
        configs=("mammoth_si_10M", "mammoth_ov_2M"), rows=12_000_000, gigabytes=None, licence="Apache-2.0",
        annotations=("mammoth_*.json",), archives=("*_data/*.tar.gz",),
        roots=("", "single_image_data", "multi_image_data", "video_data"),
        note="name: mammoth_si_10M (one picture; 21.8 GB of JSON) or mammoth_ov_2M (several, videos)",
    ),
    "m4_instruct": NamedSource(
        about="instructions about several pictures (LLaVA-NeXT-Interleave)", record=llava.record, modality="multi_image",
        fixture=pictures.m4_instruct, hub="lmms-lab/M4-Instruct-Data", rows=616_000, gigabytes=None,
        licence="CC-BY-4.0, and OpenAI's terms", annotations=("m4_instruct_annotations.json",), archives=("*.zip",),
        note="dreamsim comes in two parts: zip -s 0 dreamsim_split.zip --out dreamsim.zip; m4_instruct_video.json, which needs "
        "ShareGPTVideo's videos, is not read",
    ),
    "llava_instruct_150k": NamedSource(
        about="158k instructions by GPT-4 about COCO's pictures", record=llava.record, modality="image",
        fixture=pictures.instruct_150k, hub="liuhaotian/LLaVA-Instruct-150K", rows=157_712, gigabytes=0.7,
        licence="CC-BY-4.0, and OpenAI's terms; research only", annotations=("llava_instruct_150k.json",),
        roots=("", "train2017", "coco/train2017"), note=COCO,
    ),
    "m3it": NamedSource(
        about="40 tasks with instructions, pictures as Base64", record=m3it.record, modality="image", fixture=pictures.m3it,
        hub="MMInstruction/M3IT", splits=("train", "val", "test"), rows=2_400_000, gigabytes=None, licence="each task's own",
        annotations=("data/**/*[a-z].jsonl", "*.jsonl"),
        called={split: f"{split}*|*[_-]{split}*" for split in ("train", "val", "test")},
        note="its loading script is not run: files below data/ are read as they are, name: a task's folder (coco, vqav2, ...); "
        "the same rows in other words (train_v2.jsonl, train_2023-10-08.jsonl) are left alone; or take source: m3it_parquet",
    ),
    "m3it_parquet": NamedSource(
        about="M3IT's training rows of one picture, English, in one table of Parquet files", record=m3it.record,
        modality="image", fixture=pictures.m3it_parquet, hub="HuggingFaceM4/M3IT", rows=1_238_638, gigabytes=75,
        licence="each task's own", note="split off a part for measuring: split: train[:95%]",
    ),
    "vizwiz": NamedSource(
        about="photos and questions of blind people, unanswerable ones among them", record=captions.vizwiz, modality="image",
        fixture=pictures.vizwiz, hub="lmms-lab/VizWiz-VQA", splits=("val", "test"), rows=4_319, licence="CC-BY-4.0",
        note="split: val; test has no answers; the training set is on vizwiz.org only, as JSON and archives",
    ),
    # --- pictures: captions ---
    "coco_captions": NamedSource(
        about="COCO photos, one row a caption", record=shapes.record, modality="image", fixture=pictures.coco_captions,
        hub="jxie/coco_captions", splits=("train", "validation", "test"), rows=616_767, gigabytes=None,
        licence="captions CC-BY-4.0; photos their owners' (Flickr)",
    ),
    "flickr8k": NamedSource(
        about="8k photos with five captions each, as five targets", record=captions.record, modality="image",
        fixture=pictures.flickr8k, hub="jxie/flickr8k", splits=("train", "validation", "test"), rows=8_000, gigabytes=1.1,
        licence="research only; photos their owners' (Flickr)",
    ),
    "flickr30k": NamedSource(
        about="31k photos with five captions each, as five targets", record=captions.record, modality="image",
        fixture=pictures.flickr30k, hub="lmms-lab/flickr30k", splits=("train", "val", "test"), rows=31_783, gigabytes=4.4,
        licence="research only; photos their owners' (Flickr)", whole_split="test",
        note="published as one split; smolforge's are Karpathy's (29,000 / 1,014 / 1,000 pictures), which the column split tells",
    ),
    "textcaps": NamedSource(
        about="photos with writing in them, captions that read it", record=captions.record, modality="image",
        fixture=pictures.textcaps, hub="lmms-lab/TextCaps", splits=("train", "val", "test"), rows=28_408, gigabytes=8.1,
        licence="CC-BY-4.0", note="test has no captions",
    ),
    # --- videos ---
    "llava_video_178k": NamedSource(
        about="178k videos with captions, open questions and multiple choice (name: 0_30_s_academic_v0_1, ...)",
        record=llava.record, modality="video", fixture=films.llava_video, hub="lmms-lab/LLaVA-Video-178K", configs=llava.VIDEO,
        needs_name=True, splits=("caption", "open_ended", "multi_choice"), rows=1_630_000, gigabytes=None,
        licence="research only (OpenAI's terms, and the videos' own)", annotations=("*/*.json",), archives=("*/*.tar.gz",),
        called={"caption": "*cap*", "open_ended": "*oe*|sharegptvideo_qa*", "multi_choice": "*mc*"},
        note="its splits are kinds of rows, none is train: split: caption+open_ended+multi_choice; llava_hound's videos are "
        "ShareGPTVideo's",
    ),
    "finevideo": NamedSource(
        about="44k videos of YouTube with a description, scenes and questions", record=films_of.finevideo, modality="video",
        fixture=films.finevideo, hub="HuggingFaceFV/finevideo", rows=43_751, gigabytes=600, licence="CC-BY, each video's own",
        gated=True, note="3,425 hours; stream it, or take a slice: each row holds its whole video",
    ),
    "video_star": NamedSource(
        about="1M questions about Kinetics700, STAR-benchmark and FineDiving", record=llava.record, modality="video",
        fixture=films.video_star, hub="orrzohar/Video-STaR", configs=("Kinetics700", "STAR-benchmark", "FineDiving"), rows=None,
        gigabytes=0.6, licence="Apache-2.0; the videos their own", annotations=("ft_json/*.json",),
        called={"Kinetics700": "kinetics700*", "STAR-benchmark": "starb*", "FineDiving": "finediving*"},
        note="the videos are not included: get them from the three data sets' own sites and put them into the folder",
    ),
    "vript": NamedSource(
        about="420k clips with a script's descriptions", record=films_of.vript, modality="video", fixture=films.vript,
        hub="Mutonix/Vript", configs=("vript_long", "vript_short"), rows=420_000, gigabytes=1_510,
        licence="research only; the videos their owners'",
        annotations=("vript_captions/*.jsonl", "vript_captions/**/*_caption.json"),
        archives=("vript_captions/*.zip", "vript_*_videos_clips/*.zip"),
        roots=("vript_long_videos_clips", "vript_short_videos_clips", ""),
        note="long clips alone are 822 GB, short ones 12 GB (name: vript_short); whole videos are not needed",
    ),
    "vista_400k": NamedSource(
        about="400k questions about long and high-resolution videos put together from others", record=llava.record,
        modality="video", fixture=films.vista, hub="TIGER-Lab/VISTA-400K", rows=400_000, gigabytes=None, licence="MIT",
        configs=(
            "long_video_caption", "temporal_niah_qa", "temporal_niah_mcq", "two_needle_niah_qa", "spatial_niah_qa",
            "spatial_niah_mcq", "spatiotemporal_niah_mcq",
        ),
        annotations=("**/*.json", "**/*.jsonl"), archives=("*/*.tar",),
        roots=("", "long_video_caption", "temporal_niah_qa", "temporal_niah_mcq", "two_needle_niah_qa", "spatial_niah_qa",
               "spatial_niah_mcq", "spatiotemporal_niah_mcq"),
        note="21.5 GB an archive, about a dozen a task (name: a task's folder); there may be more tasks than are listed",
    ),
    "moviechat": NamedSource(
        about="films of about ten minutes with a description and questions", record=films_of.moviechat, modality="video",
        fixture=films.moviechat, hub="Enxin/MovieChat-1K_train", rows=808, gigabytes=None,
        licence="research only; the films their owners'", gated=True, annotations=("jsons/*.json",), roots=("raw_videos", ""),
        note="movies/ holds features and is not needed; two films (179, s02e10-3) have no video; questions about single moments "
        "are left out",
    ),
    "sharegpt4video": NamedSource(
        about="40k videos described by GPT-4V", record=films_of.sharegpt4video, modality="video", fixture=films.sharegpt4video,
        hub="ShareGPT4Video/ShareGPT4Video", rows=40_178, gigabytes=None, licence="CC-BY-NC-4.0",
        annotations=("sharegpt4video_40k.jsonl",), archives=("zip_folder/*/*.zip",),
        roots=("", "zip_folder", "zip_folder/panda", "zip_folder/pexels", "zip_folder/pixabay", "zip_folder/mixit",
               "zip_folder/bdd100k", "zip_folder/ego4d"),
        note="the captions of single frames are not used",
    ),
    # --- text ---
    "smoltalk": NamedSource(
        about="instructions and answers, text only (name: all, smol-magpie-ultra, ...)",
        record=shapes.record, modality="text", fixture=texts.smoltalk, hub="HuggingFaceTB/smoltalk", needs_name=True,
        configs=(
            "all", "apigen-80k", "everyday-conversations", "explore-instruct-rewriting", "longalign", "metamathqa-50k",
            "numina-cot-100k", "openhermes-100k", "self-oss-instruct", "smol-constraints", "smol-magpie-ultra", "smol-rewrite",
            "smol-summarize", "systemchats-30k",
        ),
        splits=("train", "test"), rows=1_098_000, gigabytes=4.2, licence="Apache-2.0, and each part's own",
        note="all is one of its own configurations",
    ),
    # --- preferences ---
    "rlaif_v": NamedSource(
        about="79k pairs of answers about pictures, ranked by an open model", record=shapes.record, modality="image",
        fixture=pairs.rlaif_v, hub="HuggingFaceH4/rlaif-v_formatted", splits=("train", "test"), rows=83_132, gigabytes=None,
        licence="CC-BY-NC-4.0",
    ),
    "rlaif_v_openbmb": NamedSource(
        about="the same 83k pairs as their makers published them, in one split", record=shapes.record, modality="image",
        fixture=pairs.rlaif_v_openbmb, hub="openbmb/RLAIF-V-Dataset", rows=83_132, gigabytes=None, licence="CC-BY-NC-4.0",
        note="split off a part for measuring: split: train[:95%]",
    ),
    "rlhf_v": NamedSource(
        about="5.7k pairs about pictures whose chosen answer a human corrected", record=shapes.record, modality="image",
        fixture=pairs.rlhf_v, hub="openbmb/RLHF-V-Dataset", rows=5_733, gigabytes=None, licence="CC-BY-NC-4.0",
    ),
    "povid": NamedSource(
        about="17k pairs with hallucinations put in by GPT-4V", record=shapes.record, modality="image", fixture=pairs.povid,
        hub="YiyangAiLab/POVID_preference_data_for_VLLMs", rows=17_184, licence="CC-BY-4.0, and OpenAI's terms",
        annotations=("*.json",), roots=("", "train2014", "train2017", "coco/train2014", "coco/train2017"), note=COCO,
    ),
    "ultrafeedback_binarized": NamedSource(
        about="62k pairs ranked by GPT-4, text only", record=shapes.record, modality="text", licence="MIT",
        fixture=pairs.ultrafeedback_binarized, hub="trl-lib/ultrafeedback_binarized", splits=("train", "test"), rows=63_135,
    ),
    "ultrafeedback_cleaned": NamedSource(
        about="61k pairs ranked by GPT-4, text only, without TruthfulQA's prompts", record=shapes.record, modality="text",
        fixture=pairs.ultrafeedback_cleaned, hub="argilla/ultrafeedback-binarized-preferences-cleaned", rows=60_917,
        licence="MIT",
    ),
}  # fmt: skip
