"""Whisper's decoder made ready for generation: a step of one row reads all weights, and does little else."""

from typing import Optional

from torch import nn

from fairseq_prune.modules.packed import packed, require_cpu
from fairseq_prune.modules.packed_linear import is_plain
from fairseq_prune.modules.previewed_output import OutputPreview, PreviewedOutput

# read once a clip, over all of its frames; alignment looks at the weights
LEFT_OUT = ("encoder_attn.k_proj", "encoder_attn.v_proj")
TOGETHER = ("q_proj", "k_proj", "v_proj")  # of self-attention


def prepare_for_generation_(
    decoder: nn.Module, int8: bool = False, preview: Optional[OutputPreview] = None
) -> None:
    """Replace linear layers and the output projection by `packed.packed`, in place, for inference alone.

    Queries, keys and values of self-attention become one product. The embedding of input tokens stays as it is. So do
    the projections of the encoder's output, and layers that are not plain any more.

    Args:
        decoder: a `WhisperDecoder`, on its device and in its type.
        int8: weights of 8 bits, each output by itself; activations are quantised as they come.
        preview: how the output projection finds the likeliest tokens, on the CPU; None: all tokens in full.

    Raises:
        ValueError: int8 on another device than the CPU.
    """
    embedding = decoder.embed_tokens.weight
    if int8:
        require_cpu(embedding.device)
    for layer in decoder.layers:
        attention = layer.self_attn
        parts = [getattr(attention, name, None) for name in TOGETHER]
        if all(map(is_plain, parts)):
            attention.in_proj = packed(*parts, int8=int8)
            for name in TOGETHER:
                delattr(attention, name)
    for name, layer in list(decoder.layers.named_modules()):
        if is_plain(layer) and not name.endswith(LEFT_OUT):
            parent, _, own = name.rpartition(".")
            setattr(decoder.layers.get_submodule(parent), own, packed(layer, int8=int8))
    if decoder.output_projection is None:
        projection = nn.Linear(embedding.shape[1], embedding.shape[0], bias=False, device="meta")
        projection.weight = nn.Parameter(embedding.detach(), requires_grad=False)
        if preview is not None and embedding.device.type == "cpu":
            decoder.output_projection = PreviewedOutput(projection, preview, int8)
        else:
            decoder.output_projection = packed(projection, int8=int8)
