"""What every export to ONNX does: libraries, the criteria that a graph can hold, and writing a graph."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fairseq_prune.checkpoints.extras import import_extra, quiet
from fairseq_prune.modules.frames import TokenPruning

OPSET = 18
HELD_CRITERIA = ("received", "norm", "uniform")


def require_libraries() -> None:
    """Raise ValueError unless onnx, onnxscript and onnxruntime can be used."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(name, "onnx")


def require_held(pruning: TokenPruning) -> None:
    """Raise ValueError if frames are dropped in a way that no graph holds."""
    if not pruning.keeps_all and pruning.criterion not in HELD_CRITERIA:
        raise ValueError(
            f"--token-keep-criterion: found {pruning.criterion!r}, the format holds"
            f" {', '.join(HELD_CRITERIA)}: give one of these, or all frames, in --model-overrides, such as"
            " \"{'token_keep_ratio': 1.0}\""
        )


@torch.no_grad()
def write_graph(
    module: nn.Module,
    arguments: Sequence[Tensor],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: Sequence,
) -> None:
    """Write what ``module`` computes of ``arguments`` as an ONNX file, with its weights in it.

    Args:
        arguments: an example.
        inputs, outputs: their names.
        dynamic_shapes: of each argument {dimension: `torch.export.Dim`}, or None; in a tuple where the module takes any
            number of arguments.
    """
    with quiet():
        torch.onnx.export(
            module.eval(),
            tuple(arguments),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=tuple(dynamic_shapes),
            external_data=False,
            verbose=False,
        )
