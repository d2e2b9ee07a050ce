"""What can be measured, by name: light, so that `--help` needs no PyTorch. Tests hold it against what there is."""

TASKS = (
    "scenes", "clips", "coco_caption", "docvqa", "textvqa", "chartqa", "pope", "chair", "object_halbench", "amber", "mmhal",
    "videomme", "mlvu", "mvbench", "preference",
)  # fmt: skip
METRICS = ("bleu", "rouge", "cider", "meteor", "spice", "clipscore", "chair", "anls", "vqa", "relaxed", "exact")
