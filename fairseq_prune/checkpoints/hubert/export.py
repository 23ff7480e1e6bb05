"""An encoder of ours in the formats of other libraries; each is loaded back and compared before the writer returns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor, nn

from fairseq_prune.checkpoints.extras import import_extra, quiet
from fairseq_prune.checkpoints.formats import export_format
from fairseq_prune.checkpoints.hubert.dphubert import (
    check_plain,
    dphubert_file,
    projection_of,
    read_dphubert_file,
)
from fairseq_prune.checkpoints.hubert.onnx import export_onnx
from fairseq_prune.checkpoints.hubert.torchaudio import conv_layers, to_torchaudio, torchaudio_options
from fairseq_prune.checkpoints.huggingface_folder import pruning_entry
from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_state_dict_strictly
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.convolution import normalize_waveform
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert

ENCODERS = ("pruned_hubert", "wavlm", "dphubert")  # models that are an encoder alone, or distil one
SAMPLES = 16_000  # of the utterance that is compared
TOLERANCE = 1e-4  # of the last layer, relative to its norm
USE_ANOTHER = "use --format dphubert or onnx, which take any shape"


def encoder_of(model: nn.Module) -> TokenPrunedHubert:
    """The encoder that a model is, distils, or has before its decoder.

    Raises:
        ValueError: it has gates, or is no such model.
    """
    encoder = getattr(model, "student", model)
    encoder = getattr(getattr(encoder, "encoder", None), "hubert", encoder)
    if isinstance(encoder, GatedHubert):
        raise ValueError(
            "the model still has gates: export what scripts/compress_hubert.py makes of its checkpoint"
        )
    if not isinstance(encoder, TokenPrunedHubert):
        raise ValueError(
            f"a model {type(model).__name__}: expected an encoder (pruned_hubert, wavlm, dphubert, hubert_deltalm)"
        )
    return encoder.float().eval()


@export_format("dphubert", ENCODERS)
def export_dphubert(model, task, out: Path, options=None) -> None:
    """Write a file in the layout of the published DPHuBERT code (`checkpoints.dphubert_file`)."""
    encoder = encoder_of(model)
    save(dphubert_file(encoder), out)
    config, normalize, weights = read_dphubert_file(load_checkpoint_file(out), out)
    back = build_encoder({"normalize": normalize, **config}).eval()
    load_state_dict_strictly(back, weights, out)
    waveform = probe()
    with torch.no_grad():
        require_equal(back(waveform, [SAMPLES]).x, expected_output(encoder, waveform), out)


@export_format("torchaudio", ENCODERS)
def export_torchaudio(model, task, out: Path, options=None) -> None:
    """Write {"config", "state_dict", "normalize_waveform"}, for `torchaudio.models.wav2vec2_model(**config)`.

    torchaudio's model does not normalise waveforms: where ``normalize_waveform`` says so, do it before.

    Raises:
        ValueError: its layers cannot have the encoder's shapes, or it computes something else.
    """
    import torchaudio

    encoder = encoder_of(model)
    check_plain(encoder)
    heads, units = uniform_shape(encoder, "torchaudio's wav2vec2_model")
    sizes = {"encoder_num_heads": heads, "encoder_ff_interm_features": units}
    config = {**torchaudio_options(encoder), **sizes}
    theirs = torchaudio.models.wav2vec2_model(**config).eval()
    theirs.load_state_dict({**to_torchaudio(encoder.state_dict()), **projection_of(encoder)})
    content = {"config": config, "normalize_waveform": encoder.normalize, "state_dict": theirs.state_dict()}
    save(content, out)
    content = load_checkpoint_file(out)
    back = torchaudio.models.wav2vec2_model(**content["config"]).eval()
    back.load_state_dict(content["state_dict"])
    waveform = probe()
    source = normalize_waveform(waveform, [SAMPLES]) if content["normalize_waveform"] else waveform
    with torch.no_grad():
        require_equal(back(source)[0], expected_output(encoder, waveform), out)


@export_format("hf", (*ENCODERS, "hubert_deltalm*"))
def export_huggingface(model, task, out: Path, options=None) -> None:
    """Write a folder that `HubertModel.from_pretrained` of transformers loads, with its feature extractor.

    Of a translator it is the encoder alone. config.json says which frames it drops, for `adapters.transformers.load`;
    transformers alone lets all go on.

    Raises:
        ValueError: transformers is missing, cannot express the encoder's shapes, or computes something else.
    """
    encoder = encoder_of(model)
    write_huggingface(encoder, out, "HubertModel")
    transformers = import_extra("transformers", "bench")
    with quiet():
        back = transformers.HubertModel.from_pretrained(out).eval()
    waveform = probe()
    source = normalize_waveform(waveform, [SAMPLES]) if encoder.normalize else waveform
    with torch.no_grad(), encoder.all_kept():  # as the library alone does
        require_equal(back(source).last_hidden_state, expected_output(encoder, waveform), out)


def write_huggingface(
    encoder: TokenPrunedHubert,
    out: Path,
    kind: str,
    head: Optional[Mapping[str, Tensor]] = None,
    **options,
) -> None:
    """Write a folder of transformers with its feature extractor.

    Args:
        kind: class of transformers, such as HubertForCTC, with whatever head.
        head: its weights.
        options: further ones of its configuration.

    Raises:
        ValueError: transformers is missing, or cannot express the encoder's shapes.
    """
    cfg = encoder.cfg
    check_plain(encoder)
    heads, units = uniform_shape(encoder, f"transformers' {kind}")
    transformers = import_extra("transformers", "bench")
    transformers.utils.logging.disable_progress_bar()
    layers = conv_layers(encoder)
    model_class = getattr(transformers, kind)
    config = model_class.config_class(
        hidden_size=cfg.encoder_embed_dim,
        num_hidden_layers=cfg.encoder_layers,
        num_attention_heads=heads,
        intermediate_size=units,
        hidden_dropout=cfg.dropout,
        activation_dropout=cfg.activation_dropout,
        attention_dropout=cfg.attention_dropout,
        feat_proj_dropout=cfg.dropout_input,
        layerdrop=cfg.encoder_layerdrop,
        feat_extract_norm="layer" if cfg.extractor_mode == "layer_norm" else "group",
        conv_dim=[channels for channels, _, _ in layers],
        conv_kernel=[kernel for _, kernel, _ in layers],
        conv_stride=[stride for _, _, stride in layers],
        conv_bias=cfg.conv_bias,
        num_conv_pos_embeddings=cfg.conv_pos,
        num_conv_pos_embedding_groups=cfg.conv_pos_groups,
        do_stable_layer_norm=cfg.layer_norm_first,
        apply_spec_augment=False,
        mask_time_prob=0.0,
        **pruning_entry(encoder),
        **options,
    )
    theirs = model_class(config).eval()
    weights = {**to_torchaudio(encoder.state_dict()), **projection_of(encoder)}
    prefix = f"{theirs.base_model_prefix}." if head else ""
    known = theirs.state_dict()
    weights = {_in_transformers(name, known, prefix): value for name, value in weights.items()}
    result = theirs.load_state_dict({**weights, **(head or {})}, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("masked_spec_embed")]
    left = missing + result.unexpected_keys
    if left:
        raise ValueError(f"{out}: weights do not fit transformers' {kind}: {', '.join(left[:5])}")
    with quiet():
        theirs.save_pretrained(out)
        transformers.Wav2Vec2FeatureExtractor(
            do_normalize=encoder.normalize, return_attention_mask=cfg.extractor_mode == "layer_norm"
        ).save_pretrained(out)


@export_format("onnx", ENCODERS, int8=True)
def export_graph(model, task, out: Path, options) -> None:
    """Write an ONNX file, as `export_onnx` says."""
    export_onnx(encoder_of(model), out, options.int8)


def uniform_shape(encoder: TokenPrunedHubert, library: str) -> tuple[int, int]:
    """Heads and units of every layer, where these are those of a model that was never cut.

    Raises:
        ValueError: layers differ, or their heads are not as wide together as the model.
    """
    shapes, dim = encoder.shapes, encoder.cfg.encoder_embed_dim
    if encoder.relative_position is not None:
        raise ValueError(f"{library} has no gated relative positions (WavLM): {USE_ANOTHER}")
    sizes = set(zip(shapes.heads, shapes.units))
    heads, units = next(iter(sizes))
    if len(sizes) > 1 or heads * shapes.head_dim != dim or not units:
        raise ValueError(
            f"{library} has layers of one shape, whose heads are together {dim} wide; found heads"
            f" {list(shapes.heads)} of {shapes.head_dim}, units {list(shapes.units)}: {USE_ANOTHER}"
        )
    return heads, units


def probe() -> Tensor:
    """A waveform (1, samples) to compare on."""
    return 0.1 * torch.randn(1, SAMPLES, generator=torch.Generator().manual_seed(0))


def expected_output(encoder: TokenPrunedHubert, waveform: Tensor) -> Tensor:
    """(1, frames, dim)."""
    return encoder(waveform, [waveform.shape[1]]).x


def require_equal(found: Tensor, expected: Tensor, out: Path, tolerance: float = TOLERANCE) -> float:
    """The relative difference of outputs; ValueError if it is more than rounding."""
    difference = float((found - expected).norm() / expected.norm())
    if found.shape != expected.shape or not difference <= tolerance:
        raise ValueError(
            f"{out}: gives other outputs than the model (relative difference {difference:.1e}, at most"
            f" {tolerance:.0e} was expected)"
        )
    return difference


def _in_transformers(name: str, known, prefix: str) -> str:
    """torchaudio's name in transformers' HubertModel, whose weight norm has the names of the installed torch."""
    name = name.replace("encoder.feature_projection.", "feature_projection.")
    name = prefix + name.replace("encoder.transformer.", "encoder.")
    if name not in known:
        name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        name = name.replace("conv.weight_v", "conv.parametrizations.weight.original1")
    return name
