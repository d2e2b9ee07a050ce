"""Published preference sets that name their columns in their own way -> prompt, chosen, rejected.

openbmb/RLHF-V-Dataset keeps the pair as JSON in a string (sometimes with `logps`, which are another model's):

    {"ds_name": "RLHF-V", "image": {"bytes": ..., "path": None}, "image_path": "llava1.5_raw_images/00013/000139279.jpg",
     "text": '{"question": "What is shown?", "chosen": "A bench by a lake.", "rejected": "A bench with two people."}',
     "origin_dataset": "LLaVA-Instruct", "origin_split": "...", "idx": 0}

YiyangAiLab/POVID_preference_data_for_VLLMs repeats the conversation; pictures are file names of COCO:

    {"id": "000000118233", "image": "000000118233.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nWhat is shown?"}, {"from": "gpt", "value": "A bench."}],
     "rejected_conversations": [{"from": "human", "value": "<image>\\nWhat is shown?"}, {"from": "gpt", "value": "A dog."}]}

The others need nothing of this: `shapes.record` reads their columns as they are (both layouts of RLAIF-V, UltraFeedback).
"""

from __future__ import annotations

import json
from typing import Any

from smolforge.errors import DataError


def pair_columns(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its pair in the columns `chosen` and `rejected`; other rows come back as they are.

    >>> pair_columns({"text": '{"question": "Why?", "chosen": "So.", "rejected": "No."}', "idx": 0})
    {'idx': 0, 'question': 'Why?', 'chosen': 'So.', 'rejected': 'No.'}

    Raises:
        DataError: the text is meant to be JSON and is not.
    """
    if "rejected_conversations" in row:
        kept = {name: value for name, value in row.items() if name not in ("conversations", "rejected_conversations")}
        return kept | {"chosen": row.get("conversations"), "rejected": row["rejected_conversations"]}
    text = row.get("text")
    if isinstance(text, str) and text.lstrip().startswith("{") and ('"chosen"' in text or '"rejected"' in text):
        try:
            pair = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError("the pair in text is not valid JSON", mend=f"mend it ({error})") from error
        kept = {name: value for name, value in row.items() if name != "text"}
        return kept | {name: pair.get(name) for name in ("question", "chosen", "rejected")}
    return row
