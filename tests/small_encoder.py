"""Encoders whose layers differ, of random weights, for what writes and reads them."""

import torch
from tones import SMALL_HUBERT

from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.shapes import HubertShapes

LARGE = {"normalize": True, "extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
CHANNELS = [12, 9, 16, 7, 16, 5, 11]


def make_encoder(form="base", heads=(4, 4), units=(48, 48), channels=None, **shapes):
    """Random weights; biases and norms that are not 0 and 1."""
    convolutions = SMALL_HUBERT["conv_feature_layers"]
    if channels is not None:
        steps = [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2
        convolutions = str([(size, *step) for size, step in zip(channels, steps)])
    fields = {**SMALL_HUBERT, "conv_feature_layers": convolutions, **(LARGE if form == "large" else {})}
    normalize, fields["encoder_layers"] = fields.pop("normalize", False), len(heads)
    pruned = HubertShapes(list(heads), list(units), 8, True, **shapes).to_dict()
    torch.manual_seed(0)
    encoder = build_encoder({"normalize": normalize, **fields, "pruned": pruned}).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return encoder
