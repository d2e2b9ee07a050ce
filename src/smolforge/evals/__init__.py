"""Measuring: metrics as pure functions, benchmarks one file each."""
