"""Training: `loop.train` is the algorithm on one screen; its parts stand beside it."""
