"""The family's smallest members: models of a million parameters, and any recipe made small enough to try on a laptop."""

from smolforge.tiny.models import assemble_text, assemble_tiny
from smolforge.tiny.shrink import shrink

__all__ = ["assemble_text", "assemble_tiny", "shrink"]
