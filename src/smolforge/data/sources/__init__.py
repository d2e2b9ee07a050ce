"""Where rows come from. `SOURCES` names the data sets smolforge knows; anything else is opened by `tables.py`."""
