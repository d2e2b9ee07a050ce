"""What ran and what it cost."""

from __future__ import annotations

import torch

from smolforge.machine import energy, peak_memory, versions


def test_versions_name_the_machine_and_what_computes():
    found = versions()
    assert found["torch"] == torch.__version__
    assert {"python", "machine", "smolforge", "transformers"} <= set(found)


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(60_000_000)  # 240 MB
    assert peak_memory(torch.device("cpu")) >= before
    assert peak_memory(torch.device("cpu")) > held.numel() * 4


def test_a_processor_does_not_tell_its_energy():
    assert energy(torch.device("cpu")) is None
