"""An encoder as an ONNX graph for any batch and any lengths, in float32 or with weights of 8 bits."""

import tempfile
from pathlib import Path

import torch
from fairseq.modules import Fp32GroupNorm
from torch import Tensor, nn

from fairseq_prune.checkpoints.extras import import_extra, quiet
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.modules.frames import Frames
from fairseq_prune.modules.hubert.convolution import norm_over_valid, samples_of_a_frame
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert

TOLERANCE = 1e-3  # of outputs on valid frames, relative to their norm
INT8_TOLERANCE = 0.2
COMPARED = (
    (16_000, 11_000),
    (24_000,),
    (7000, 9000, 8000),
)  # lengths of the batches that are compared, in samples


class EncoderGraph(nn.Module):
    """`TokenPrunedHubert` in tensors alone: all that depends on lengths is a part of the graph.

    Args:
        hubert: drops no frames.
    """

    def __init__(self, hubert: TokenPrunedHubert):
        super().__init__()
        self.hubert = hubert

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode waveforms.

        Args:
            source: (batch, samples), float32 at 16 kHz.
            lengths: (batch,), valid samples of each, int64; enough for a frame.

        Returns:
            (batch, frames, dim), of which each row's first (batch,) are valid.
        """
        hubert = self.hubert
        valid = steps_before(lengths, source)
        if hubert.normalize:
            source = valid * norm_over_valid(source.unsqueeze(1), valid, 1e-5).squeeze(1)
        x = source.unsqueeze(1)
        for block in hubert.feature_extractor.conv_layers:
            for module in block:
                if isinstance(module, Fp32GroupNorm):
                    weight, bias = module.weight.unsqueeze(1), module.bias.unsqueeze(1)
                    x = norm_over_valid(x, valid, module.eps) * weight + bias
                else:
                    x = module(x)
                if isinstance(module, nn.Conv1d):
                    kernel, stride = module.kernel_size[0], module.stride[0]
                    lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
                    valid = steps_before(lengths, x)
        x = hubert.project(x)
        positions = torch.arange(x.shape[1]).expand(x.shape[0], x.shape[1])
        frames = Frames(x, [], valid == 0, positions)
        hubert._encode(frames)
        return frames.x, lengths


def steps_before(lengths: Tensor, x: Tensor) -> Tensor:
    """(batch, time): 1 where a step of ``x`` (batch, ..., time) is valid, else 0."""
    return (torch.arange(x.shape[-1]) < lengths.unsqueeze(1)).float()


def export_onnx(encoder: TokenPrunedHubert, out: Path, int8: bool = False) -> None:
    """Write an ONNX file: ``source``, ``lengths`` -> ``features``, ``frames`` (see `EncoderGraph.forward`).

    Args:
        encoder: float32, in evaluation mode.
        out: file to write.
        int8: quantise the matrices of the transformer dynamically; convolutions stay in float32.

    Raises:
        ValueError: onnx or onnxruntime is missing, the encoder drops frames, or ONNX Runtime computes something else.
    """
    if any(ratio != 1.0 for ratio in encoder.pruning.keep_ratios):
        raise ValueError("the format holds no token pruning: export the encoder with --token-keep-ratio 1.0")
    for name in ("onnx", "onnxscript"):
        import_extra(name, "onnx")
    runtime = import_extra("onnxruntime", "onnx")
    batch, samples = (
        torch.export.Dim("batch"),
        torch.export.Dim("samples", min=samples_of_a_frame(encoder.kernels_strides)),
    )
    example = (torch.randn(2, 16_000), torch.tensor([16_000, 12_000]))
    with tempfile.TemporaryDirectory(dir=out.parent) as aside, quiet(), torch.no_grad():
        plain = Path(aside) / "float32.onnx"
        program = torch.onnx.export(
            EncoderGraph(encoder),
            example,
            input_names=["source", "lengths"],
            output_names=["features", "frames"],
            dynamic_shapes={"source": {0: batch, 1: samples}, "lengths": {0: batch}},
            dynamo=True,
            verbose=False,
        )
        program.save(str(plain), external_data=False)
        if int8:
            quantize(plain, out, ["MatMul", "Gemm"])
        else:
            plain.rename(out)
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for lengths in COMPARED:
        difference = _difference(encoder, session, list(lengths))
        tolerance = INT8_TOLERANCE if int8 else TOLERANCE
        if not difference <= tolerance:
            raise ValueError(
                f"{out}: ONNX Runtime gives other outputs than the model (relative difference {difference:.1e} for"
                f" utterances of {list(lengths)} samples, at most {tolerance:g} was expected)"
            )


@torch.no_grad()
def _difference(encoder, session, lengths: list[int]) -> float:
    """Relative difference of ONNX Runtime's features on valid frames; infinite if their number is another."""
    generator = torch.Generator().manual_seed(0)
    source = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(source, lengths):
        row[:length] = 0.1 * torch.randn(length, generator=generator)
    expected = encoder(source, lengths)
    features, frames = session.run(None, {"source": source.numpy(), "lengths": torch.tensor(lengths).numpy()})
    if frames.tolist() != expected.lengths:
        return float("inf")
    found, valid = (
        torch.from_numpy(features),
        torch.arange(features.shape[1]) < torch.tensor(frames).unsqueeze(1),
    )
    return float((found - expected.x)[valid].norm() / expected.x[valid].norm())
