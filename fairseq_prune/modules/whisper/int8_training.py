"""Whisper that is trained as its ONNX export of 8 bits computes (`checkpoints.whisper.onnx`)."""

from torch import nn

from fairseq_prune.modules.int8_rounding import RoundedEmbedding, RoundedLinear, RoundedProjection
from fairseq_prune.modules.whisper.packing import LEFT_OUT as ONCE_A_CLIP


def round_as_int8_(model: nn.Module) -> None:
    """Replace linear layers and the embedding of tokens by those of `int8_rounding`, in place, for training alone.

    Parameters stay the same, and have the same names. Convolutions, norms, attention and the positions stay as they
    are, as in the export. The padding of a batch, which the export does not see, counts as a part of the clip.

    Args:
        model: `models.whisper.Whisper`.
    """
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear:
            whole_clip = name.startswith("encoder.") or name.endswith(ONCE_A_CLIP)
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, RoundedLinear(layer, dims=2 if whole_clip else 1))
    decoder = model.decoder
    decoder.output_projection = RoundedProjection(decoder.embed_tokens)
    decoder.embed_tokens = RoundedEmbedding(decoder.embed_tokens)
