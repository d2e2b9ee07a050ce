"""Benchmarks by name, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from smolforge.evals.benchmark import Benchmark
from smolforge.evals.benchmarks import (
    amber,
    chair,
    chartqa,
    clips,
    coco_caption,
    docvqa,
    mlvu,
    mmhal,
    mvbench,
    object_halbench,
    pope,
    scenes,
    textvqa,
    videomme,
)
from smolforge.evals.measures import Measure
from smolforge.evals.predictions import METRIC_MEASURES
from smolforge.evals.preference import PREFERENCE

BENCHMARKS: dict[str, Benchmark] = {
    "scenes": scenes.BENCHMARK,
    "clips": clips.BENCHMARK,
    "coco_caption": coco_caption.BENCHMARK,
    "docvqa": docvqa.BENCHMARK,
    "textvqa": textvqa.BENCHMARK,
    "chartqa": chartqa.BENCHMARK,
    "pope": pope.BENCHMARK,
    "chair": chair.BENCHMARK,
    "object_halbench": object_halbench.BENCHMARK,
    "amber": amber.BENCHMARK,
    "mmhal": mmhal.BENCHMARK,
    "videomme": videomme.BENCHMARK,
    "mlvu": mlvu.BENCHMARK,
    "mvbench": mvbench.BENCHMARK,
}
MEASURES: dict[str, Mapping[str, Measure]] = {
    **{name: benchmark.measures for name, benchmark in BENCHMARKS.items()},
    "preference": PREFERENCE,
    "predictions": METRIC_MEASURES,
}
