"""How long would a GPU take for a batch? What the simulated device does in the place of one.

None of it was measured on an H100. Each time is a constant and a part for each row, fitted to what NVIDIA
published for an A100 and halved: with the same types an H100 is twice as fast, NVIDIA says
(https://nvidia.github.io/TensorRT-LLM/blogs/H100vsA100.html). In 32 bits, which on tensor cores are TF32,
everything is taken to last twice as long as in 16. Slower GPUs are as they were published.
"""

from __future__ import annotations

from dataclasses import dataclass

US = 1000
COPY_BYTES_PER_S = 50e9
"""Of pinned memory, each way; an assumption for PCIe 5 with 16 lanes, which have 63 on paper."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long a run of so many rows takes."""

    run_ns: int
    row_ns: int

    def __call__(self, rows: int) -> int:
        """Return it in nanoseconds."""
        return self.run_ns + rows * self.row_ns

    def per_s(self, rows: int) -> float:
        """Return the rows a second of such runs, one right after the other."""
        return rows * 1e9 / max(self(rows), 1)

    def slower(self, times: float) -> Times:
        """Return those of a device that takes so many times as long."""
        return Times(round(self.run_ns * times), round(self.row_ns * times))


BERT_FP16 = Times(300 * US, 60 * US)
"""TensorRT, BERT-base, sequence 128, FP16 on an A100, for 1, 8, 32 and 64 rows: 0.64, 1.36, 4.06 and 8.05 ms
(https://github.com/NVIDIA/TensorRT, demo/BERT/README.md). Here 0.36, 0.78, 2.2 and 4.1."""
RESNET_FP16 = Times(1_030 * US, 39 * US)
"""Triton with ONNX Runtime and TensorRT, ResNet-50 v1.5, FP16 on an A100: "compute infer" is 2.68 ms with 16
clients, hence about 8 rows, and 7.02 with 128, about 64 (https://github.com/NVIDIA/DeepLearningExamples,
PyTorch/Classification/ConvNets/triton/resnet50/README.md). Here 1.3 and 3.5."""
PERCEPTRON_FP16 = Times(40 * US, US // 5)
"""An assumption: to read 50 MB of weights takes 15 us at 3.35 TB/s, to start a handful of kernels the rest; a
row are 50 MFLOP, 0.13 us at 400 TFLOPS."""
BERT_FP32, RESNET_FP32, PERCEPTRON_FP32 = (
    each.slower(2) for each in (BERT_FP16, RESNET_FP16, PERCEPTRON_FP16)
)
RESNET_FP16_V100 = Times(2_450 * US, 158 * US)
"""From the same table as those of the A100: 3.71 ms for about 8 rows, 12.5 for about 64."""
RESNET_FP16_T4 = Times(3_320 * US, 331 * US)
"""Likewise: 5.96 and 24.5 ms."""
NONE = Times(0, 0)
"""A device that takes no time, which leaves what the front end can do."""
