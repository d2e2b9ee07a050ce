"""Hugging Face's own modules, composed for token trees. See `tree.py`."""
