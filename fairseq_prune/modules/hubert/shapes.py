"""HuBERTs whose layers differ in heads and widths, as structured pruning leaves them."""

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass
from typing import Union

import torch
from fairseq.models.hubert import HubertConfig
from fairseq.modules import FairseqDropout
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import Tensor, nn

from fairseq_prune.modules.output_bias import OutputBias
from fairseq_prune.pruning.counting import LayerSize

GATE_UNITS = 8  # of the linear map in front of the two gates of WavLM's heads, four for each


@dataclass(frozen=True)
class HubertShapes:
    """What `HubertConfig` cannot say; the channels of the extractor stand in its ``conv_feature_layers``.

    heads: of each layer, ``head_dim`` wide; 0: no attention, only its output bias.
    units: inner width of each layer's feed-forward block; 0: no such block, only its output bias.
    head_dim: width of a head.
    projection: a linear map leads from the extractor's channels to the transformer's width.
    relative_buckets: of WavLM's gated relative positions (`modules.relative_position`); 0: none.
    relative_distance: frames from which all of its positions share a bucket.
    channel_scale: the extractor's last channels have factors, as in the published DPHuBERT files.
    """

    heads: Sequence[int]
    units: Sequence[int]
    head_dim: int
    projection: bool
    relative_buckets: int = 0
    relative_distance: int = 800
    channel_scale: bool = False

    @classmethod
    def uniform(cls, cfg: HubertConfig, projection: bool) -> "HubertShapes":
        """The same sizes in every layer, those of ``cfg``."""
        return cls(
            [cfg.encoder_attention_heads] * cfg.encoder_layers,
            [cfg.encoder_ffn_embed_dim] * cfg.encoder_layers,
            cfg.encoder_embed_dim // cfg.encoder_attention_heads,
            projection,
        )

    @classmethod
    def from_dict(cls, fields: dict, layers: int) -> "HubertShapes":
        """What `to_dict` wrote, for a model of so many ``layers``.

        Raises:
            ValueError: a field is missing, unknown or impossible.
        """
        if not isinstance(fields, dict) or sorted(fields) != sorted(cls.__dataclass_fields__):
            raise ValueError(f"pruned is {fields!r}, expected {', '.join(cls.__dataclass_fields__)}")
        for name in ("heads", "units"):
            sizes = fields[name]
            if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
                raise ValueError(f"pruned: {name} is {sizes!r}, expected a list of sizes")
            if len(sizes) != layers:
                raise ValueError(f"pruned: {name} has {len(sizes)} layers, expected {layers}")
        if type(fields["head_dim"]) is not int or fields["head_dim"] < 1:
            raise ValueError(f"pruned: head_dim is {fields['head_dim']!r}, expected 1 or more")
        buckets = fields["relative_buckets"]
        if type(buckets) is not int or buckets < 0 or buckets % 4:
            raise ValueError(f"pruned: relative_buckets is {buckets!r}, expected 0 or a multiple of 4")
        if type(fields["relative_distance"]) is not int or fields["relative_distance"] * 4 <= buckets:
            raise ValueError(
                f"pruned: relative_distance is {fields['relative_distance']!r}, expected more frames"
            )
        for name in ("projection", "channel_scale"):
            if type(fields[name]) is not bool:
                raise ValueError(f"pruned: {name} is {fields[name]!r}, expected true or false")
        return cls(**fields)

    def to_dict(self) -> dict[str, Union[int, bool, list[int]]]:
        """As JSON can hold it."""
        return {
            name: list(value) if name in ("heads", "units") else value for name, value in asdict(self).items()
        }

    @property
    def gate_units(self) -> int:
        """Outputs of the linear map to the gates of relative positions; 0 without these."""
        return GATE_UNITS if self.relative_buckets else 0

    def layer_sizes(self) -> list[LayerSize]:
        """For `pruning.counting`."""
        return [
            LayerSize(heads, units, int(heads > 0), int(units > 0))
            for heads, units in zip(self.heads, self.units)
        ]


class SelfAttention(nn.Module):
    """Projections of an attention whose heads are not as wide together as the model.

    Parameters have the names of fairseq's `MultiheadAttention`; `modules.attention.self_attention` computes it.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, num_heads * head_dim)
        self.k_proj = nn.Linear(dim, num_heads * head_dim)
        self.v_proj = nn.Linear(dim, num_heads * head_dim)
        self.out_proj = nn.Linear(num_heads * head_dim, dim)
        self.dropout_module = FairseqDropout(dropout)


class ChannelScale(nn.Module):
    """A factor for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time), returned as such."""
        return x * self.weight.unsqueeze(1)


def without_units(cfg: HubertConfig) -> HubertConfig:
    """For what `apply_shapes` follows: blocks that it replaces need not be built in full before."""
    cfg = copy(cfg)
    cfg.encoder_ffn_embed_dim = 1
    return cfg


def apply_shapes(hubert: nn.Module, shapes: HubertShapes) -> None:
    """Give the layers of fairseq's `HubertModel` other sizes, with random weights where these differ.

    Raises:
        ValueError: the extractor's channels need a projection that ``shapes`` deny.
    """
    dim = hubert.encoder.embedding_dim
    if shapes.projection and hubert.post_extract_proj is None:
        hubert.post_extract_proj = nn.Linear(hubert.embed, dim)
    elif not shapes.projection and hubert.post_extract_proj is not None:
        raise ValueError(f"pruned: no projection, but {hubert.embed} channels before a width of {dim}")
    if shapes.channel_scale:
        last = hubert.feature_extractor.conv_layers[-1]
        last.add_module("scale", ChannelScale(last[0].out_channels))
    for layer, heads, units in zip(hubert.encoder.layers, shapes.heads, shapes.units):
        attention = layer.self_attn
        if heads == 0:
            layer.self_attn = nn.Module()
            layer.self_attn.out_proj = OutputBias(dim)
        elif (heads, shapes.head_dim) != (attention.num_heads, dim // attention.num_heads):
            layer.self_attn = SelfAttention(dim, heads, shapes.head_dim, attention.dropout_module.p)
            layer.self_attn.apply(init_bert_params)
        if units == 0:
            layer.fc1, layer.fc2 = None, OutputBias(dim)
        elif units != layer.fc1.out_features:
            layer.fc1, layer.fc2 = nn.Linear(dim, units), nn.Linear(units, dim)
            layer.fc1.apply(init_bert_params), layer.fc2.apply(init_bert_params)
        if layer.layer_norm_first:  # a norm after a block also normalises what goes around the block
            if heads == 0:
                layer.self_attn_layer_norm = None
            if units == 0:
                layer.final_layer_norm = None
