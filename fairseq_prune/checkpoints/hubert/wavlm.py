"""What the folders of Hugging Face have of WavLM beyond HuBERT: gated relative positions."""

import torch

from fairseq_prune.modules.hubert.shapes import HubertShapes

# {module in transformers: module here}; transformers has the table of all layers in the first one's attention
POSITION_MODULES = {
    r"encoder\.layers\.0\.attention\.rel_attn_embed": "relative_position.table",
    r"encoder\.layers\.(\d+)\.attention\.gru_rel_pos_linear": r"relative_position.layers.\1.linear",
    r"encoder\.layers\.(\d+)\.attention": r"relative_position.layers.\1",
}
POSITION_PARAMETERS = {"gru_rel_pos_const": "scale"}


def relative_position_shapes(huggingface, config):
    """`HubertShapes` as a dict, of a WavLM with config.json ``huggingface`` and fairseq's fields ``config``."""
    layers, heads = config["encoder_layers"], config["encoder_attention_heads"]
    shapes = HubertShapes(
        [heads] * layers,
        [config["encoder_ffn_embed_dim"]] * layers,
        config["encoder_embed_dim"] // heads,
        projection=True,
        relative_buckets=huggingface.get("num_buckets", 320),
        relative_distance=huggingface.get("max_bucket_distance", 800),
    )
    return shapes.to_dict()


def finish_position_gates(weights):
    """The gates' scales as (heads,), not (1, heads, 1, 1), and beside them which heads there are: all."""
    for key in [key for key in weights if key.startswith("relative_position.") and key.endswith(".scale")]:
        weights[key] = weights[key].flatten()
        weights[key[: -len("scale")] + "heads"] = torch.arange(len(weights[key]))
