"""Which rows say the same twice, and which ones an evaluation asks: found, listed, never deleted."""
