"""Virtual tokens by PEFT: learned embeddings in front of the text (prompt tuning, P-tuning), or learned keys and values in front
of every layer (prefix tuning, P-tuning v2).

They stand above the roots of all trees of a row, once, for every token to see:

    virtual   v v v                 nothing sees what comes behind it
    tree 1    . . .  P P P C C R    P: v and P; C: v, P and C; R: v, P and R
    tree 2    . . .  Q Q Q A A      its positions go on behind v as well

Legend: n virtual tokens, D width, G key-value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smolforge.model.adapters.inside import Adapters


class Virtual(Adapters):
    """Prompt tuning, P-tuning, prefix tuning: what PEFT's handle makes of its prompt encoder."""

    why_not_merged = "virtual tokens stand in front of the text; they are no part of the weights"

    def __init__(self, model: Any, handle: Any, about: Mapping[str, Any]) -> None:
        super().__init__(model, handle, about)
        self.on = True

    @property
    def whole(self) -> nn.Module:
        return self.handle

    @property
    def encoder(self) -> nn.Module:
        """What is trained."""
        return self.handle.prompt_encoder

    @property
    def count(self) -> int:
        """n."""
        return int(self.handle.active_peft_config.num_virtual_tokens)

    @contextmanager
    def off(self) -> Iterator[None]:
        self.on = False
        try:
            yield
        finally:
            self.on = True

    def save(self, draft: Path) -> None:
        """What the encoder gives, which PEFT asks it for here: without the dropout of a run that is training."""
        mode = self.encoder.training
        self.encoder.eval()
        super().save(draft)
        self.encoder.train(mode)

    def embeddings(self) -> torch.Tensor | None:
        """Virtual tokens to run through the layers in front of the text, (n, D); None where layers get their own."""
        return None if self._layered else self.handle.get_prompt(batch_size=1)[0]

    def keys_values(self) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Keys and values in front of every layer, (n, G, E) each, as they are attended (no rotary embedding); None where virtual
        tokens run through the layers."""
        if not self._layered:
            return None
        cache = self.handle.get_prompt(batch_size=1)
        return [(layer.keys[0].transpose(0, 1), layer.values[0].transpose(0, 1)) for layer in cache.layers]

    @torch.no_grad()
    def refuse_other_shapes(self) -> None:
        """PEFT reads virtual tokens of any width and depth, whatever the model's.

        Raises:
            ValueError: they are not the model's.
        """
        text = self.model.config.get_text_config()
        heads, width = text.num_key_value_heads, text.head_dim
        given, own = self.keys_values(), self.embeddings()
        found: list[tuple[int, ...]]
        here: list[tuple[int, ...]]
        if own is not None:
            found, here = [tuple(own.shape[1:])], [(text.hidden_size,)]
        else:
            found, here = [tuple(keys.shape[1:]) for keys, _ in given or ()], [(heads, width)] * text.num_hidden_layers
        if found != here:
            raise ValueError(f"virtual tokens of {len(found)} x {found[0]} numbers there, and {len(here)} x {here[0]} here")

    @property
    def _layered(self) -> bool:
        return str(self.handle.active_peft_config.peft_type.value) == "PREFIX_TUNING"
