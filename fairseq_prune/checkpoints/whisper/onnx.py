"""Whisper for ONNX Runtime: an encoder that reads a clip, and a decoder that reads one token.

The encoder gives the keys and values that the decoder's cross-attention looks at, so that they are computed once a
clip; the decoder takes and gives the keys and values of the tokens so far. Batches of one: a device hears one command
at a time.
"""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fairseq_prune.checkpoints.extras import import_extra, quiet
from fairseq_prune.checkpoints.formats import export_format
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.checkpoints.whisper.runtime import (
    CONFIG,
    DECODER,
    ENCODER,
    FILTERS,
    TOKENIZER,
    OnnxWhisper,
)
from fairseq_prune.data.log_mel import mel_filters
from fairseq_prune.modules.whisper.decoder import Cache
from fairseq_prune.modules.whisper.generation import suppressed_tokens
from fairseq_prune.modules.whisper.layers import KeysValues

OPSET = 18
TOLERANCE, INT8_TOLERANCE = 1e-3, 0.15  # of logits, relative to the largest
QUANTIZED = ["MatMul", "Gemm", "Gather"]  # convolutions of 8 bits are slower than those of 32


class ClipEncoder(nn.Module):
    """Features (1, mel frames, mel bins) -> keys and values, each (decoder layers, 1, heads, frames, head dim)."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.layers = model.encoder, model.decoder.layers

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder.encode(features)
        memory = [layer.encoder_attn.keys_values(x) for layer in self.layers]
        return torch.stack([layer.keys for layer in memory]), torch.stack([layer.values for layer in memory])


class TokenDecoder(nn.Module):
    """A token (1, 1), keys and values of the encoder, and of the tokens before (layers, 1, heads, tokens, head dim).

    Returns:
        logits (1, vocabulary) of the next token, and keys and values with this token's.
    """

    def __init__(self, model):
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, token: Tensor, memory_keys: Tensor, memory_values: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        memory = [KeysValues(*layer) for layer in zip(memory_keys, memory_values)]
        past = [KeysValues(*layer) for layer in zip(keys, values)]
        states, cache = self.decoder.decode(token, Cache(memory, None, past))
        # of two dimensions, which ONNX multiplies with the embedding as it lies: a third would have it transposed
        logits = self.decoder.output_layer(self.decoder.layer_norm(states[-1])[:, 0])
        return logits, torch.stack([p.keys for p in cache.past]), torch.stack([p.values for p in cache.past])


@export_format("onnx", ("whisper*",), int8=True)
def export_onnx(model, task, out: Path, options) -> None:
    """Write a folder for `whisper_runtime.OnnxWhisper`: two graphs, tokenizer, mel filters, and what it must know.

    Args:
        model: `models.whisper.Whisper`, of whatever context.
        task: ``spoken_language_understanding``, with the tokenizer.
        out: folder to write, which must not exist.
        options: of scripts/export.py; ``int8`` stores the weights of linear layers and embeddings in 8 bits.

    Raises:
        ValueError: the encoder drops frames; onnx or onnxruntime is missing, or gives other logits than the model.
    """
    encoder = model.encoder
    if not encoder.pruning.keeps_all or encoder.silence_stride > 1:
        raise ValueError(
            "the format holds no token pruning and takes all frames of silence, as with --token-keep-ratio 1.0 and"
            " --silence-stride 1: give --model-overrides \"{'token_keep_ratio': 1.0, 'silence_stride': 1}\""
        )
    import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    import_extra("onnxruntime", "onnx")
    out.mkdir(parents=True)
    _write_graphs(model, out)
    tokenizer = task.tokenizer
    never, first = suppressed_tokens(tokenizer) if str(task.cfg.suppress_tokens) == "non_speech" else ([], [])
    config = {
        "prefix": task.prefix,
        "end": tokenizer.dictionary.eos(),
        "suppressed": never,
        "suppressed_first": first,
        "mel_bins": model.encoder.conv1.in_channels,
        "mel_frames": model.encoder.max_positions(),
        "audio_context": model.encoder.audio_context,
        "max_tokens": model.decoder.max_positions(),
        "decoder_layers": len(model.decoder.layers),
        "heads": model.decoder.layers[0].self_attn.num_heads,
        "head_dim": model.decoder.layers[0].self_attn.head_dim,
    }
    (out / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    (out / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
    np.save(out / FILTERS, mel_filters(config["mel_bins"]).numpy())
    _compare(model, out, TOLERANCE)
    if getattr(options, "int8", False):
        for name in (ENCODER, DECODER):
            quantize(out / name, out / name, QUANTIZED)
        _compare(model, out, INT8_TOLERANCE)


def _write_graphs(model, out: Path) -> None:
    frames = torch.export.Dim("mel_frames", min=2, max=model.encoder.max_positions())
    places = torch.export.Dim("frames", min=1, max=model.encoder.embed_positions.num_embeddings)
    tokens = torch.export.Dim("tokens", min=0, max=model.decoder.max_positions() - 1)
    features = torch.rand(1, 50, model.encoder.conv1.in_channels)
    encoder, decoder = ClipEncoder(model).eval(), TokenDecoder(model).eval()
    with torch.no_grad():
        memory = encoder(features)
    past = [layer[..., :3, :].clone() for layer in memory]
    names = ["memory_keys", "memory_values", "keys", "values"]
    graphs = {
        ENCODER: (encoder, (features,), ["features"], names[:2], ({1: frames},)),
        DECODER: (
            decoder,
            (torch.tensor([[0]]), *memory, *past),
            ["token", *names],
            ["logits", "new_keys", "new_values"],
            (None, {3: places}, {3: places}, {3: tokens}, {3: tokens}),
        ),
    }
    for name, (module, arguments, inputs, outputs, dynamic) in graphs.items():
        with quiet():
            torch.onnx.export(
                module,
                arguments,
                str(out / name),
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )


@torch.no_grad()
def _compare(model, folder: Path, tolerance: float) -> None:
    """Run both on noise: the logits of a few steps may differ by ``tolerance`` of the largest."""
    runner, generator = OnnxWhisper(folder), torch.Generator().manual_seed(0)
    features = torch.rand(
        min(300, model.encoder.max_positions()), model.encoder.conv1.in_channels, generator=generator
    )
    tokens = torch.randint(model.decoder.embed_tokens.num_embeddings, (8,), generator=generator)
    encoded = model.encoder(features[None], torch.tensor([len(features)]))
    expected = model.decoder(tokens[None], encoded)[0][0]
    memory, cache, found = runner.encode(features.numpy()), runner.start(), []
    for token in tokens.tolist():
        logits, cache = runner.step(token, memory, cache)
        found.append(torch.from_numpy(logits.copy()))
    difference = float((torch.stack(found) - expected).abs().max() / expected.abs().max())
    if not difference < tolerance:
        raise ValueError(
            f"{folder}: ONNX Runtime's logits differ from the model's by {difference:.2g} of the largest, at most"
            f" {tolerance:g} was expected"
        )
    logging.getLogger(__name__).info(f"{folder}: logits differ by {difference:.2g} of the largest")
