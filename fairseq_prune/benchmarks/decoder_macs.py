"""Multiply-accumulate operations after the speech encoder, by stage: adaptor, DeltaLM's layers, beam search."""

from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.hubert.convolution import ConvAdaptor
from fairseq_prune.pruning.counting import transformer_layer_macs


def adaptor_macs(adaptor: ConvAdaptor, frames: int) -> tuple[int, int]:
    """MACs for one utterance of so many frames, and the frames that are left."""
    if adaptor.linear is not None:
        return frames * adaptor.linear.in_features * adaptor.linear.out_features, frames
    macs = 0
    for conv in adaptor.convs:
        frames = (frames - 1) // adaptor.stride + 1
        macs += frames * conv.weight.numel()
    return macs, frames


def text_layers_macs(encoder: DeltaLMEncoder, first_layer: int, frames: int) -> int:
    """MACs of `DeltaLMEncoder.forward_layers` for one utterance of so many frames."""
    return sum(
        sum(
            transformer_layer_macs(
                frames, frames, layer.embed_dim, layer.fc1.out_features, layer.self_attn.num_heads
            ).values()
        )
        for layer in encoder.layers[first_layer:]
    )


def beam_search_macs(decoder: DeltaLMDecoder, memory: int, steps: int, beam: int) -> dict[str, int]:
    """MACs of ``steps`` steps of beam search for one utterance.

    Args:
        memory: frames of the encoder's output, whose keys and values the beams share.
        steps: tokens, the end of the sentence included.
        beam: hypotheses.

    Returns:
        under "decoder" and "output_projection".
    """
    macs = shared = 0
    for layer in decoder.layers:
        dim, inner = layer.embed_dim, layer.fc1.out_features
        # projections of self-attention, of cross-attention's queries and output; two feed-forward blocks
        macs += steps * (4 * dim**2 + 2 * dim**2 + 4 * dim * inner)
        shared += memory * 2 * dim**2
        # logits and weighted sums: with all tokens so far, and with the memory
        macs += 2 * dim * (steps * (steps + 1) // 2 + steps * memory)
    projection = decoder.output_projection
    return {
        "decoder": beam * macs + shared,
        "output_projection": beam * steps * projection.in_features * projection.out_features,
    }
