"""From a source's rows to packed rows of tokens: sources -> records -> render -> pack -> batch. See `pipeline.py`."""
