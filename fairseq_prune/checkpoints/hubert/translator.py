"""The speech translator for ONNX Runtime: an encoder that reads an utterance, and a decoder that reads a token a beam.

The encoder gives the keys and values that the decoder's cross-attention looks at, so that they are computed once an
utterance; the decoder takes and gives the keys and values of the tokens so far. All beams look at one memory.
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.checkpoints.formats import export_format
from fairseq_prune.checkpoints.hubert.onnx import (
    PRODUCTS,
    TOLERANCE,
    EncoderGraph,
    frames_config,
    noise,
    write_encoder_graph,
)
from fairseq_prune.checkpoints.onnx_graphs import write_graph
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.checkpoints.runtime.folder import CONFIG, DECODER, ENCODER
from fairseq_prune.checkpoints.runtime.hubert import SENTENCEPIECE, TRANSLATOR, OnnxTranslator
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder
from fairseq_prune.modules.speech_encoder import SpeechEncoder

INT8_TOLERANCE = 0.3  # of logits, relative to their norm
QUANTIZED = {ENCODER: PRODUCTS, DECODER: (*PRODUCTS, "Gather")}  # what the decoder gathers are embeddings
COMPARED = (16_000, 9000)  # samples of the utterances that are compared
COMPARED_TOKENS = 8


class MemoryEncoder(EncoderGraph):
    """A waveform (1, samples) -> keys and values, each (decoder layers, 1, heads, memory, head dim)."""

    def __init__(self, encoder: SpeechEncoder, decoder: DeltaLMDecoder):
        super().__init__(encoder.hubert)
        self.encoder, self.layers = encoder, decoder.layers

    def forward(self, source: Tensor, lengths: Tensor, *plan: Tensor) -> tuple[Tensor, Tensor]:
        """As of its class; what else is taken as of `EncoderGraph.forward`."""
        frames, _ = self.encode(source, lengths, *plan)
        x, _, positions = self.encoder.adaptor(frames.x, [], frames.positions)  # one utterance has no padding
        x = self.encoder.norm(x)
        if self.encoder.memory_positions:
            x = x + sinusoids(positions, x.shape[-1])
        if self.encoder.text_encoder is not None:
            x = self.encoder.text_encoder.forward_layers(x, None, self.encoder.first_text_layer)
        attentions = [layer.encoder_attn for layer in self.layers]
        keys = [split(attention.k_proj(x), attention) for attention in attentions]
        values = [split(attention.v_proj(x), attention) for attention in attentions]
        return torch.stack(keys), torch.stack(values)


class TokenDecoder(nn.Module):
    """A token of each beam (beams, 1), keys and values of the memory, and of the tokens before.

    The latter are (layers, beams, heads, tokens, head dim).

    Returns:
        logits (beams, vocabulary) of the next token, and keys and values with these tokens'.
    """

    def __init__(self, decoder: DeltaLMDecoder):
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, memory_keys: Tensor, memory_values: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As of its class."""
        decoder, grown = self.decoder, []
        position = decoder.padding_idx + 1 + keys.shape[3]
        x = decoder.embed_scale * decoder.embed_tokens(tokens)
        x = x + decoder.embed_positions.weight[position : position + 1]
        if decoder.layernorm_embedding is not None:
            x = decoder.layernorm_embedding(x)
        for index in range(len(decoder.layers)):  # iterating would draw the layers that LayerDrop skips
            layer, own = decoder.layers[index], Attended(keys[index], values[index])
            x = layer.run(
                x,
                lambda x, layer=layer, own=own: own.extend(layer.self_attn, x),
                lambda x, layer=layer, index=index: look(
                    layer.encoder_attn, x.transpose(0, 1), memory_keys[index], memory_values[index]
                ).transpose(0, 1),
            )
            grown.append(own)
        if decoder.layer_norm is not None:
            x = decoder.layer_norm(x)
        # of two dimensions, which ONNX multiplies with the embedding as it lies
        logits = decoder.output_projection(x[:, 0])
        return logits, torch.stack([own.keys for own in grown]), torch.stack([own.values for own in grown])


class Attended:
    """Keys and values (beams, heads, tokens, head dim) of a layer's self-attention."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, self.values = keys, values

    def extend(self, attention: nn.Module, x: Tensor) -> Tensor:
        """What the tokens x (beams, 1, dim) find in those before them and in themselves."""
        self.keys = torch.cat([self.keys, split(attention.k_proj(x), attention)], dim=2)
        self.values = torch.cat([self.values, split(attention.v_proj(x), attention)], dim=2)
        return look(attention, x, self.keys, self.values)


def split(x: Tensor, attention: nn.Module) -> Tensor:
    """(rows, positions, dim) -> (rows, heads, positions, head dim)."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def look(attention: nn.Module, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What x (rows, queries, dim) finds: attention of fairseq, given the keys and values."""
    found = F.scaled_dot_product_attention(split(attention.q_proj(x), attention), keys, values)
    return attention.out_proj(found.transpose(1, 2).flatten(2))


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Positions (rows, frames) -> (rows, frames, dim), as fairseq's `SinusoidalPositionalEmbedding` has them."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10_000) / (half - 1)))
    angles = positions.unsqueeze(-1).float() * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, dim % 2))


@export_format("onnx", ("hubert_deltalm*",), int8=True)
def export_onnx(model, task, out: Path, options) -> None:
    """Write a folder for `runtime.hubert.OnnxTranslator`: two graphs, sentencepiece, and what it must know.

    Args:
        model: `models.hubert_deltalm.HubertDeltaLM`.
        task: ``speech_translation``, with the target's vocabulary.
        out: folder to write, which must not exist.
        options: of scripts/export.py; ``int8`` stores matrices and embeddings in 8 bits.

    Raises:
        ValueError: frames are dropped in a way that no graph holds; onnx or onnxruntime is missing, or gives other
            logits than the model.
    """
    encoder, decoder = model.encoder.float(), model.decoder.float()
    out.mkdir(parents=True)
    given = ["memory_keys", "memory_values"]
    write_encoder_graph(MemoryEncoder(encoder, decoder), out / ENCODER, given, batch=False)
    attention = decoder.layers[0].self_attn
    shape = (len(decoder.layers), 1, attention.num_heads, 5, attention.head_dim)
    memory, past = torch.rand(2, *shape), torch.rand(2, len(decoder.layers), 3, *shape[2:])
    beams, places = torch.export.Dim("beams"), torch.export.Dim("memory")
    tokens = torch.export.Dim("tokens", min=0, max=decoder.max_positions() - 1)
    cached = {1: beams, 3: tokens}
    write_graph(
        TokenDecoder(decoder),
        [torch.zeros(3, 1, dtype=torch.long), *memory, *past],
        out / DECODER,
        ["tokens", *given, "keys", "values"],
        ["logits", "new_keys", "new_values"],
        [{0: beams}, {3: places}, {3: places}, cached, cached],
    )
    vocabulary = task.vocabularies["target"]
    (out / SENTENCEPIECE).write_bytes(vocabulary.model)
    (out / CONFIG).write_text(json.dumps(runtime_config(model, task), ensure_ascii=False), encoding="utf-8")
    _compare(model, out, TOLERANCE)
    if getattr(options, "int8", False):
        for name, operators in QUANTIZED.items():
            quantize(out / name, out / name, operators)
        _compare(model, out, INT8_TOLERANCE)


def runtime_config(model, task) -> dict:
    """What the runtime must know besides the graphs; arguments as of `export_onnx`."""
    decoder, dictionary = model.decoder, task.target_dictionary
    attention = decoder.layers[0].self_attn
    skipped = (dictionary.bos(), dictionary.pad(), dictionary.eos())
    return {
        "kind": TRANSLATOR,
        **frames_config(model.encoder.hubert),
        "heard": task.heard,
        "pieces": [None if index in skipped else piece for index, piece in enumerate(dictionary.symbols)],
        "symbols": len(dictionary),
        "pad": dictionary.pad(),
        "end": dictionary.eos(),
        "max_tokens": decoder.max_positions(),
        "decoder_layers": len(decoder.layers),
        "heads": attention.num_heads,
        "head_dim": attention.head_dim,
    }


@torch.no_grad()
def _compare(model, folder: Path, tolerance: float) -> None:
    """The logits of a few tokens after noise, from both: by fairseq's decoder in one pass, and step by step."""
    runner, generator = OnnxTranslator(folder), torch.Generator().manual_seed(0)
    tokens = torch.randint(4, runner.config["symbols"], (2, COMPARED_TOKENS), generator=generator)
    for samples in COMPARED:
        waveform = noise([samples])
        memory = model.encoder(waveform.repeat(2, 1), torch.tensor([samples, samples]))
        expected = model.decoder(tokens, encoder_out=memory)[0]
        memory, cache, found = runner.memory(waveform[0].numpy()), runner.start(beams=2), []
        for step in range(COMPARED_TOKENS):
            logits, cache = runner.step(tokens[:, step : step + 1].numpy(), memory, cache)
            found.append(torch.from_numpy(logits))
        difference = float((torch.stack(found, dim=1) - expected).norm() / expected.norm())
        if not difference <= tolerance:
            raise ValueError(
                f"{folder}: ONNX Runtime's logits differ from the model's by {difference:.2g} of their norm, at most"
                f" {tolerance:g} was expected"
            )
