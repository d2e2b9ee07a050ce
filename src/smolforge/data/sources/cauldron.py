"""HuggingFaceM4/the_cauldron: 50 collections of pictures with questions and answers, one configuration each; and
HuggingFaceM4/Docmatix, questions about pages of documents, in the same columns.

Row:

    {"images": [<picture>], "texts": [{"user": "What is shown?", "assistant": "A cat.", "source": "AI2D"}, ...]}

Every answer of a row is a target; the pictures stand before the first question. Docmatix's configuration `pdf` has the documents'
bytes instead of pages (column `pdf`), which is refused. Columns as the datasets' cards list them.
"""

from __future__ import annotations

from typing import Any

from smolforge.data.sources import shapes
from smolforge.errors import DataError
from smolforge.records import Record

CONFIGS = (
    "ai2d", "aokvqa", "chart2text", "chartqa", "clevr", "clevr_math", "cocoqa", "datikz", "diagram_image_to_text", "docvqa",
    "dvqa", "figureqa", "finqa", "geomverse", "hateful_memes", "hitab", "iam", "iconqa", "infographic_vqa", "intergps",
    "localized_narratives", "mapqa", "mimic_cgd", "multihiertt", "nlvr2", "ocrvqa", "okvqa", "plotqa", "raven", "rendered_text",
    "robut_sqa", "robut_wikisql", "robut_wtq", "scienceqa", "screen2words", "spot_the_diff", "st_vqa", "tabmwp", "tallyqa",
    "tat_qa", "textcaps", "textvqa", "tqa", "vistext", "visual7w", "visualmrc", "vqarad", "vqav2", "vsr", "websight",
)  # fmt: skip


def record(row: dict[str, Any], *, id: str, source: str, **options: Any) -> Record:
    """Row -> Record."""
    if row.get("pdf") is not None:
        raise DataError("a document without its pages as pictures", mend="take the configuration images")
    turns = []
    for text in row["texts"]:
        turns.append({"role": "user", "content": text["user"]})
        turns.append({"role": "assistant", "content": text["assistant"]})
    return shapes.record({"images": row["images"], "messages": turns}, id=id, source=source, **options)
