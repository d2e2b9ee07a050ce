"""CLIPScore of captions (Hessel et al. 2021, arXiv 2104.08718): how well a caption fits its picture by CLIP, without references.

Published scores are of CLIP ViT-B/32 (`openai/clip-vit-base-patch32`); those of other models cannot be compared with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from smolforge.errors import ModelError
from smolforge.hub import local_folder

if TYPE_CHECKING:
    from PIL import Image

PROMPT = "A photo depicts "
SCALE = 2.5  # w in eq. 1; cosines of ViT-B/32 lie in 0 to 0.4
CHUNK = 64  # pictures or captions at a time


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """Of one caption."""

    clip: float  # CLIPScore, from 0 to 2.5
    ref: float | None  # RefCLIPScore, None without references


class ClipScore:
    """A CLIP model that scores captions."""

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        """Load a CLIP model by local folder or Hub name, in transformers' format.

        Raises:
            ModelError: it cannot be loaded.
        """
        from transformers import CLIPModel, CLIPProcessor

        folder = local_folder(model)
        try:
            self.model = CLIPModel.from_pretrained(folder).eval().to(torch.device(device))
            self.processor = CLIPProcessor.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"this is no CLIP model ({error})", where=model, mend="give openai/clip-vit-base-patch32") from None

    def score(
        self, images: Sequence[Image.Image], captions: Sequence[str], references: Sequence[Sequence[str]] | None = None
    ) -> list[ClipScores]:
        """CLIPScore, eq. 1, and RefCLIPScore, eq. 2, with v the picture, c the caption and r its references:

        CLIPScore    = 2.5 max(cos(c, v), 0)
        RefCLIPScore = harmonic mean of CLIPScore and max(max_r cos(c, r), 0)

        Args:
            images: each caption's.
            references: each caption's, at least one.
        """
        assert len(images) == len(captions), f"{len(images)} pictures for {len(captions)} captions"
        said = self._texts(captions)  # (N, D), as all of these of length 1
        clip = SCALE * (said * self._pictures(images)).sum(-1).clamp(min=0)  # (N,)
        if references is None:
            return [ClipScores(clip=value, ref=None) for value in clip.tolist()]
        assert len(references) == len(captions), f"{len(references)} sets of references for {len(captions)} captions"
        sizes = [len(given) for given in references]
        assert all(sizes), "a caption has no reference"
        given = self._texts([reference for each in references for reference in each]).split(sizes)
        near = torch.stack([(theirs @ mine).max() for theirs, mine in zip(given, said)]).clamp(min=0)  # (N,)
        mean = (2 * clip * near / (clip + near)).nan_to_num(0.0)  # 0 where both are 0
        return [ClipScores(clip=value, ref=other) for value, other in zip(clip.tolist(), mean.tolist())]

    @torch.no_grad()
    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(N, D) of length 1; a text's end is cut off where CLIP's 77 tokens are over."""
        length = self.model.config.text_config.max_position_embeddings
        found = []
        for start in range(0, len(texts), CHUNK):
            prompts = [PROMPT + text for text in texts[start : start + CHUNK]]
            tokens = self.processor.tokenizer(prompts, padding=True, truncation=True, max_length=length, return_tensors="pt")
            out = self.model.text_model(**tokens.to(self.model.device))
            found.append(normalize(self.model.text_projection(out.pooler_output).float(), dim=-1))
        return torch.cat(found).cpu()

    @torch.no_grad()
    def _pictures(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(N, D) of length 1."""
        found = []
        for start in range(0, len(images), CHUNK):
            pictures = [image.convert("RGB") for image in images[start : start + CHUNK]]
            pixels = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
            out = self.model.vision_model(pixel_values=pixels.to(self.model.device, self.model.dtype))
            found.append(normalize(self.model.visual_projection(out.pooler_output).float(), dim=-1))
        return torch.cat(found).cpu()
