"""TreeModel: PackedBatch -> token log-probs. The heart.

It composes Hugging Face's own parts (vision tower, connector, decoder layers, head) in a forward of its own, and neither
subclasses nor patches them. A picture is encoded once for all responses that use it, a prompt runs once for all its
branches, and the head runs on scored positions only.

Legend: L row tokens, K scored tokens, T tiles, C tiles whose features are known, U placeholder runs, S tokens a tile, D width,
V vocabulary, H heads, G key-value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from smolforge.data.batch import PackedBatch
from smolforge.model.adapters import Adapters, Virtual, linear
from smolforge.model.attention import Attend, Prefix, behind, tree_attention
from smolforge.model.build import count_parameters

TILE_CHUNK = 16  # tiles the vision tower takes at a time
HEAD_CHUNK = 2**26  # logits held at a time, in elements


class TreeModel(nn.Module):
    """A SmolVLM, Idefics3 or Llama model of Hugging Face's, run on token trees.

    Args:
        model: `SmolVLMForConditionalGeneration`, `Idefics3ForConditionalGeneration` or `LlamaForCausalLM`.
        mean, std: normalisation of pixels in [0, 1], one number a channel.
        gradient_checkpointing: recompute decoder layers and tower in the backward pass.
    """

    mean: torch.Tensor  # (3, 1, 1)
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.adapters: list[Adapters] = []  # one at most
        self.virtual: nn.Module | None = None  # what makes virtual tokens, where the adapters are such
        self.thaws: tuple[str, ...] = ()  # parts that train from a later step on
        self.gradient_checkpointing = gradient_checkpointing
        self.computes: torch.dtype | None = None  # where the weights are kept in another dtype than the passes run in
        self.around_layer: Callable[..., torch.Tensor] | None = None  # runs `layer` with what it needs put in place
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    # the parts, by the family's names --------------------------------------------------------------------------------

    def attach(self, adapters: Adapters) -> None:
        """Run with these adapters, which are on `model` already."""
        self.adapters = [adapters]
        if isinstance(adapters, Virtual):
            self.virtual = adapters.encoder

    @property
    def saved(self) -> Any:
        """What a checkpoint holds: the adapters, or the whole model."""
        return self.adapters[0] if self.adapters else self.model

    @property
    def whole(self) -> nn.Module:
        """Hugging Face's model with all adapters, to count parameters."""
        return self.adapters[0].whole if self.adapters else self.model

    @property
    def num_virtual(self) -> int:
        """Positions that virtual tokens take of the context."""
        one = self.adapters[0] if self.adapters else None
        return one.count if isinstance(one, Virtual) else 0

    @property
    def _ahead(self) -> Virtual | None:
        """Virtual tokens, unless they are off."""
        one = self.adapters[0] if self.adapters else None
        return one if isinstance(one, Virtual) and one.on else None

    @property
    def has_vision(self) -> bool:
        return hasattr(self._core, "vision_model")

    @property
    def vision(self) -> Any:
        return self._core.vision_model

    @property
    def connector(self) -> Any:
        return self._core.connector

    @property
    def decoder(self) -> Any:
        """The Llama inside: embed_tokens, layers, norm, rotary_emb."""
        return self._core.text_model if self.has_vision else self._core

    @property
    def head(self) -> Any:
        return self.model.lm_head

    @property
    def _core(self) -> Any:
        return self.model.model

    @property
    def dtype(self) -> torch.dtype:
        """What the passes run in."""
        return self.computes or self.decoder.embed_tokens.weight.dtype

    @property
    def boundary(self) -> Literal["vision", "connector"] | None:
        """The deepest part on the pictures' way that never trains: what it says of a picture stays the same."""
        if not self.has_vision or self._trains("vision", self.vision):
            return None
        return "vision" if self._trains("connector", self.connector) else "connector"

    def _trains(self, part: str, module: nn.Module) -> bool:
        """Now or later."""
        return part in self.thaws or any(p.requires_grad for p in module.parameters())

    @property
    def feature_size(self) -> int:
        """Numbers that `see` gives of a tile."""
        if self.boundary == "connector":
            return self._patches // self.connector.scale_factor**2 * self.decoder.config.hidden_size
        return self._patches * self.vision.config.hidden_size

    @property
    def tile_cost(self) -> float:
        """What the tower does for a tile, in tokens of the decoder: both cost about twice their parameters a patch or token."""
        if not self.has_vision:
            return 0.0
        counts = count_parameters(self.whole)
        return self._patches * counts["vision"][0] / counts["decoder"][0]

    @property
    def _patches(self) -> int:
        return (self.vision.config.image_size // self.vision.config.patch_size) ** 2

    # forward ---------------------------------------------------------------------------------------------------------

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Log-probability of each scored token, (K,) float32, in the batch's order."""
        return self.log_probs(self._predicting(batch), batch.targets)

    def _predicting(self, batch: PackedBatch) -> torch.Tensor:
        """Hidden states that predict the scored tokens, (K, D)."""
        hidden = self.embed(batch)  # (L, D)
        hidden = self.decode(hidden, batch.position_ids, [tree_attention(batch)] * len(self.decoder.layers))
        return hidden[batch.predictors]

    def embed(self, batch: PackedBatch) -> torch.Tensor:
        """Token embeddings, with the row's noise, and the pictures' features in their placeholders, (L, D)."""
        hidden = self.decoder.embed_tokens(batch.input_ids)  # (L, D)
        if batch.noise is not None:
            hidden = hidden + batch.noise.to(hidden.dtype)
        if not len(batch.tiles) and batch.features is None:
            return hidden
        features = self.image_features(batch)  # (T, S, D)
        size = features.shape[1]
        places = batch.run_starts[:, None] + torch.arange(size, device=hidden.device)  # (U, S)
        features = features[batch.run_tiles].flatten(0, 1)  # (U * S, D)
        return hidden.index_copy(0, places.flatten(), features.to(hidden.dtype))

    def see(self, batch: PackedBatch) -> PackedBatch:
        """The row with features in place of tiles, as far as they stay the same while training: up to `boundary`."""
        if self.boundary is None or not len(batch.tiles):
            return batch
        with torch.no_grad():
            new = self._look(batch.tiles)  # (T - C, ...)
            new = self.connector(new) if self.boundary == "connector" else new
        known = [] if batch.features is None else [batch.features]
        return replace(batch, features=torch.cat([*known, new]), tiles=batch.tiles[:0])

    def image_features(self, batch: PackedBatch) -> torch.Tensor:
        """Features of the row's distinct tiles, (T, S, D): those that are known, the others through tower and connector."""
        if batch.features is None:
            return self.connector(self._look(batch.tiles))
        batch = self.see(batch)
        assert batch.features is not None
        assert not len(batch.tiles), "features without a frozen part they come from"
        places, width = self._patches // self.connector.scale_factor**2, self.decoder.config.hidden_size
        through = batch.features.shape[1:] == (places, width)  # connected already
        if (places, width) == (self._patches, self.vision.config.hidden_size):  # pixel shuffle 1: both look alike
            through = self.boundary == "connector"
        return batch.features if through else self.connector(batch.features)

    def _look(self, tiles: torch.Tensor) -> torch.Tensor:
        """uint8 tiles (T, 3, P, P) through the tower, (T, S * shuffle^2, D_vision). A frozen tower runs without a graph."""
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.vision.parameters())
        with torch.set_grad_enabled(learns):
            return torch.cat([self._tower(chunk) for chunk in tiles.split(TILE_CHUNK)])

    def _tower(self, tiles: torch.Tensor) -> torch.Tensor:
        pixels = (tiles.float() / 255 - self.mean) / self.std  # (T, 3, P, P)
        pixels = pixels.to(self.dtype)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(lambda x: self.vision(pixel_values=x).last_hidden_state, pixels, use_reentrant=False)
        return self.vision(pixel_values=pixels).last_hidden_state

    def decode(
        self, hidden: torch.Tensor, positions: torch.Tensor, attends: list[Attend], *, begins: bool = True
    ) -> torch.Tensor:
        """Decoder layers and final norm: (L, D) -> (L, D). Each layer attends in its own way, which generation needs.

        Virtual tokens stand above all trees: as rows of their own in front (n + L, D), or as each layer's prefix.

        Args:
            begins: False when the row goes on behind one that ran before; `attends` then know its keys.
        """
        ahead = self._ahead
        count, rows = (ahead.count if ahead else 0), 0
        positions = positions + count
        prefixes: list[Prefix | None] = [None] * len(attends)
        if ahead and begins and (given := ahead.keys_values()) is not None:
            prefixes = [(k.to(hidden.dtype), v.to(hidden.dtype)) for k, v in given]
        elif ahead and begins and (virtual := ahead.embeddings()) is not None:
            rows = count
            hidden = torch.cat([virtual.to(hidden.dtype), hidden])  # (n + L, D)
            positions = torch.cat([torch.arange(rows, device=positions.device), positions])
            attends = [behind(attend, rows) for attend in attends]
        cos, sin = self.decoder.rotary_emb(hidden, positions[None])  # (1, n + L, E) each
        run = self.around_layer or self.layer
        for layer, attend, prefix in zip(self.decoder.layers, attends, prefixes, strict=True):
            hidden = run(layer, hidden, cos, sin, attend, prefix)
        return self.decoder.norm(hidden[rows:])

    def layer(self, layer: Any, *given: Any) -> torch.Tensor:
        """`decoder_layer`, whose activations are kept or computed again: (L, D) -> (L, D)."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(decoder_layer, layer, *given, use_reentrant=False)
        return decoder_layer(layer, *given)

    def log_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """log p(target) from the hidden states that predict them: (K, D), (K,) -> (K,) float32, logits in chunks."""
        rows = max(1, HEAD_CHUNK // self.head.weight.shape[0])
        if len(targets) <= rows or not torch.is_grad_enabled():
            parts = [self._log_probs(h, t) for h, t in zip(hidden.split(rows), targets.split(rows))]
        else:  # keep one chunk's logits at a time: the backward pass computes them again
            parts = [
                checkpoint(self._log_probs, h, t, use_reentrant=False) for h, t in zip(hidden.split(rows), targets.split(rows))
            ]
        return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)

    @torch.no_grad()
    def likeliest(self, batch: PackedBatch) -> torch.Tensor:
        """The token that the model itself would say in each scored place, (K,)."""
        rows = max(1, HEAD_CHUNK // self.head.weight.shape[0])
        parts = [self.head(h).argmax(1) for h in self._predicting(batch).split(rows)]
        return torch.cat(parts) if parts else batch.targets

    def _log_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.head(hidden).float()  # (k, V)
        return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)


def decoder_layer(
    layer: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend, prefix: Prefix | None = None
) -> torch.Tensor:
    """One Llama layer with its attention given from outside: (L, D) -> (L, D)."""
    attn, width = layer.self_attn, layer.self_attn.head_dim
    x = layer.input_layernorm(hidden)
    q = linear(attn.q_proj, x).unflatten(1, (-1, width))  # (L, H, E)
    k = linear(attn.k_proj, x).unflatten(1, (-1, width))  # (L, G, E)
    v = linear(attn.v_proj, x).unflatten(1, (-1, width))
    q, k = apply_rotary_pos_emb(q, k, cos[0], sin[0], unsqueeze_dim=1)
    hidden = hidden + linear(attn.o_proj, attend(q, k, v, attn.scaling, prefix).flatten(1))
    x, mlp = layer.post_attention_layernorm(hidden), layer.mlp
    return hidden + linear(mlp.down_proj, mlp.act_fn(linear(mlp.gate_proj, x)) * linear(mlp.up_proj, x))
