"""Whisper's decoder with weights of 8 bits, for the CPU: a step of one row reads all weights, and little else."""

import torch
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from fairseq_prune.modules.whisper.decoder import WhisperDecoder

# read once a clip, over all of its frames
LEFT_OUT = ("encoder_attn.k_proj", "encoder_attn.v_proj")


def int8_(decoder: WhisperDecoder) -> WhisperDecoder:
    """Quantise the linear layers and the output projection, each output by itself; in place, for inference alone.

    Activations are quantised as they come. The embedding of input tokens stays in float32. So do the keys and values of
    the encoder's output, which are computed once a clip.

    Raises:
        ValueError: the decoder is not on the CPU.
    """
    device = decoder.embed_tokens.weight.device
    if device.type != "cpu":
        raise ValueError(f"weights of 8 bits: found a decoder on {device}, expected the CPU")
    tokens, dim = decoder.embed_tokens.weight.shape
    decoder.output_projection = nn.Linear(dim, tokens, bias=False)
    decoder.output_projection.weight = nn.Parameter(decoder.embed_tokens.weight.detach(), requires_grad=False)
    names = {
        name: per_channel_dynamic_qconfig
        for name, module in decoder.named_modules()
        if type(module) is nn.Linear and not name.endswith(LEFT_OUT)
    }
    quantize_dynamic(decoder, names, dtype=torch.qint8, inplace=True)
    return decoder
