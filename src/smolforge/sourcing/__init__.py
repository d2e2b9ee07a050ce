"""Where data come from: what there is, a look at it, a copy of it on this disk, and a recipe's rows made ready for many runs."""
