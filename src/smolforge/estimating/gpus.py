"""Devices by name: memory, rates and bandwidth as vendors publish them, and what of them a training step is taken to reach.

Rates are dense (without structured sparsity), in TFLOP/s; tensor cores with float32 accumulation for bfloat16, plain
float32 units for float32 (PyTorch's default multiplies float32 without TF32). A consumer card with float32 accumulation runs at
half of what its advertisement says for accumulation in 16 bits; the numbers here are that half where the data sheet tells both.
"""

from __future__ import annotations

from dataclasses import dataclass

from smolforge.errors import RecipeError

UTILISATION = 0.35  # of a GPU's peak that a step's matrix products are taken to reach: a convention, no measurement
CONTEXT = 500 * 2**20  # bytes of CUDA's context and libraries' workspaces, outside PyTorch's allocator: a round number
# Share of the published memory that a run is taken to get: a reserve, no measurement. An H100 of 80 GiB shows 78 to 79.6, an H200
# of 141 about 139.8. Cards that keep error correction in GDDR6 show less than this still: people report 14.6 of a T4's 16 and
# 44.5 of an L40S's 48.
USABLE = 0.97
FRAGMENTS = 0.05  # of what a step computes, held besides by PyTorch's CUDA allocator: a convention


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Published numbers."""

    memory: float  # GiB; a run gets less, see USABLE
    bfloat16: float | None  # TFLOP/s; None where the chip has no such units
    float32: float
    bandwidth: float  # GB/s
    link: float  # GB/s each way between two GPUs of a machine: NVLink where the form meant has it, else PCIe


# As NVIDIA's data sheets and whitepapers are commonly quoted (T4 to H200: the form with the most memory bandwidth). Not one
# was opened to check this table: take rates as good to a tenth. `link` is half of the total that they give for both ways: A100
# 600, H100 and H200 900, V100 300 (all SXM); PCIe 4.0 x16 64, 3.0 x16 (T4, RTX 2080 Ti) and 4.0 x8 (RTX 4060 Ti) 32.
GPUS: dict[str, Gpu] = {
    "T4": Gpu(memory=16, bfloat16=None, float32=8.1, bandwidth=320, link=16),
    "V100-16": Gpu(memory=16, bfloat16=None, float32=15.7, bandwidth=900, link=150),
    "V100-32": Gpu(memory=32, bfloat16=None, float32=15.7, bandwidth=900, link=150),
    "A10": Gpu(memory=24, bfloat16=125, float32=31.2, bandwidth=600, link=32),
    "L4": Gpu(memory=24, bfloat16=121, float32=30.3, bandwidth=300, link=32),
    "L40S": Gpu(memory=48, bfloat16=362, float32=91.6, bandwidth=864, link=32),
    "A100-40": Gpu(memory=40, bfloat16=312, float32=19.5, bandwidth=1555, link=300),
    "A100-80": Gpu(memory=80, bfloat16=312, float32=19.5, bandwidth=2039, link=300),
    "H100": Gpu(memory=80, bfloat16=989, float32=67, bandwidth=3350, link=450),
    "H200": Gpu(memory=141, bfloat16=989, float32=67, bandwidth=4800, link=450),
    "RTX 2080 Ti": Gpu(memory=11, bfloat16=None, float32=13.4, bandwidth=616, link=16),
    "RTX 3060": Gpu(memory=12, bfloat16=25.6, float32=12.8, bandwidth=360, link=32),
    "RTX 3080": Gpu(memory=10, bfloat16=59.5, float32=29.8, bandwidth=760, link=32),
    "RTX 3090": Gpu(memory=24, bfloat16=71, float32=35.6, bandwidth=936, link=32),
    "RTX 4060 Ti": Gpu(memory=16, bfloat16=44, float32=22, bandwidth=288, link=16),
    "RTX 4070": Gpu(memory=12, bfloat16=58.3, float32=29.1, bandwidth=504, link=32),
    "RTX 4080": Gpu(memory=16, bfloat16=97.5, float32=48.7, bandwidth=717, link=32),
    "RTX 4090": Gpu(memory=24, bfloat16=165.2, float32=82.6, bandwidth=1008, link=32),
}


def find_gpu(name: str) -> tuple[str, Gpu]:
    """(its name here, its numbers) of a GPU, whatever the case and spaces, with or without GB.

    Raises:
        RecipeError: not in the table.

    >>> find_gpu("rtx3060")[0], find_gpu("nvidia a100-80")[0], find_gpu("A100-40GB")[0]
    ('RTX 3060', 'A100-80', 'A100-40')
    """
    plain = {_plain(known): known for known in GPUS}
    asked = _plain(name)
    if asked not in plain:
        raise RecipeError("not a GPU that is known here", where=f"--gpu {name}", mend=f"known: {', '.join(GPUS)}")
    return plain[asked], GPUS[plain[asked]]


def _plain(name: str) -> str:
    text = "".join(letter for letter in name.casefold() if letter.isalnum())
    for word in ("nvidia", "geforce"):
        text = text.removeprefix(word)
    return text.removesuffix("gb")


def rate(gpu: Gpu, dtype: str) -> float:
    """FLOP/s that a step is taken to reach in float32 or bfloat16. Chips without bfloat16 units compute it at float32's rate."""
    peak = (gpu.bfloat16 or gpu.float32) if dtype == "bfloat16" else gpu.float32
    return peak * 1e12 * UTILISATION
