"""The architecture of a HuBERT: fields of fairseq's configuration, and shapes that differ by layer."""

from dataclasses import fields
from typing import Any, Optional

from fairseq import utils
from fairseq.models.hubert import HubertConfig

from fairseq_prune.compat import evaluate_literals
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert, Gating
from fairseq_prune.modules.hubert.shapes import HubertShapes

# Fields of fairseq's HubertConfig that say which weights there are and what they compute. The others are for
# pretraining and regularisation, which whoever trains further sets anew.
ARCHITECTURE = {
    "extractor_mode": str,
    "conv_feature_layers": str,
    "conv_bias": bool,
    "encoder_layers": int,
    "encoder_embed_dim": int,
    "encoder_ffn_embed_dim": int,
    "encoder_attention_heads": int,
    "activation_fn": str,
    "layer_type": str,
    "layer_norm_first": bool,
    "conv_pos": int,
    "conv_pos_groups": int,
    "conv_pos_batch_norm": bool,  # unknown to fairseq 0.12.2
}
CHOICES = {
    "extractor_mode": ("default", "layer_norm"),
    "activation_fn": utils.get_available_activation_fns(),
    "layer_type": ("transformer",),
}
DEFAULTS = {"conv_pos_batch_norm": False, **{field.name: field.default for field in fields(HubertConfig)}}
MAX_CONV_LAYERS = 100


def build_encoder(
    architecture: dict[str, Any],
    pruning: Optional[TokenPruning] = None,
    pad_invariant: bool = True,
    gating: Optional[Gating] = None,
    kind: type[TokenPrunedHubert] = TokenPrunedHubert,
    **others: Any,
) -> TokenPrunedHubert:
    """The encoder of an architecture, with random weights.

    Args:
        architecture: `HubertCheckpoint.architecture`.
        pruning: which layers drop frames; none by default.
        pad_invariant: see `TokenPrunedHubert`.
        gating: makes it a `GatedHubert`, which drops no frames.
        kind: class to build without gates.
        others: further fields of fairseq's HubertConfig, such as dropout.

    Raises:
        ValueError: an unknown field, or a value that is none.
    """
    config = dict(architecture)
    normalize, pruned = config.pop("normalize"), config.pop("pruned", None)
    cfg = hubert_config(config, **others)
    shapes = None if pruned is None else HubertShapes.from_dict(pruned, cfg.encoder_layers)
    if gating is not None:
        return GatedHubert(cfg, gating, normalize, pad_invariant, shapes)
    return kind(cfg, pruning, normalize, pad_invariant, shapes)


def architecture_of(hubert: TokenPrunedHubert) -> dict[str, Any]:
    """What `build_encoder` builds ``hubert`` from, as JSON can hold it; without gates."""
    cfg = hubert.cfg
    config = check_architecture({name: getattr(cfg, name, DEFAULTS[name]) for name in ARCHITECTURE})
    architecture = {"normalize": hubert.normalize, **config}
    if hubert.shapes != HubertShapes.uniform(cfg, hubert.embed != cfg.encoder_embed_dim):
        architecture["pruned"] = hubert.shapes.to_dict()
    return architecture


def hubert_config(architecture, **others):
    """fairseq's HubertConfig, enough for `HubertModel(config, HubertPretrainingConfig(), [None])`.

    Args:
        architecture: `HubertCheckpoint.config`, or a part of it for fairseq's defaults elsewhere.
        others: further fields, such as dropout.

    Raises:
        ValueError: an unknown field, or a value that is none.
    """
    unknown = [name for name in architecture if name not in ARCHITECTURE]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a field of a HuBERT's architecture")
    config = check_architecture(architecture)
    known = {field.name for field in fields(HubertConfig)}
    if not config["conv_pos_batch_norm"]:
        config = {name: value for name, value in config.items() if name in known}
    unknown = [name for name in {**config, **others} if name not in known]
    if unknown:
        raise ValueError(f"the installed fairseq's HubertConfig has no field {unknown[0]!r}")
    return HubertConfig(label_rate=50.0, **{**config, **others})  # the default label rate is no number


def check_architecture(config):
    """The ARCHITECTURE fields of a configuration, with fairseq's defaults for those it lacks; "pruned" if it is there.

    Raises:
        ValueError: a value of the wrong type, or one that no HuBERT has.
    """
    checked = {}
    for name, kind in ARCHITECTURE.items():
        value = config.get(name, DEFAULTS[name])
        if type(value) is not kind or (kind is int and value < 1):
            raise ValueError(f"{name} is {value!r}, expected {'1 or more' if kind is int else kind.__name__}")
        if value not in CHOICES.get(name, (value,)):
            raise ValueError(f"{name} is {value!r}, expected {' or '.join(CHOICES[name])}")
        checked[name] = value
    for part in ("encoder_attention_heads", "conv_pos_groups"):
        if checked["encoder_embed_dim"] % checked[part]:
            raise ValueError(f"{part} is {checked[part]}, not a divisor of {checked['encoder_embed_dim']}")
    checked["conv_feature_layers"] = str(parse_conv_layers(checked["conv_feature_layers"]))
    if "pruned" in config:
        checked["pruned"] = HubertShapes.from_dict(config["pruned"], checked["encoder_layers"]).to_dict()
    return checked


def parse_conv_layers(expression):
    """The list of (channels, kernel, stride) that `conv_feature_layers` stands for.

    fairseq calls `eval` on this string, wherever it is from; here it may only be literals, + - and * of them.

    Raises:
        ValueError: anything else.
    """
    try:
        items = evaluate_literals(expression)
        layers = [(channels, kernel, stride) for channels, kernel, stride in items]
    except (TypeError, ValueError):
        layers = []
    if not 0 < len(layers) <= MAX_CONV_LAYERS or not all(
        type(size) is int and size > 0 for layer in layers for size in layer
    ):
        raise ValueError(
            f"conv_feature_layers is {expression[:80]!r}, expected [(channels, kernel, stride), ...]"
        )
    return layers
