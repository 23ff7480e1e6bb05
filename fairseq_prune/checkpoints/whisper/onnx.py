"""Whisper for ONNX Runtime: an encoder that reads a clip, and a decoder that reads one token.

The encoder gives the keys and values that the decoder's cross-attention looks at, so that they are computed once a
clip; the decoder takes and gives the keys and values of the tokens so far. Batches of one: a device hears one command
at a time.
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.checkpoints.formats import export_format
from fairseq_prune.checkpoints.onnx_graphs import require_held, require_libraries, write_graph
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.checkpoints.runtime.folder import CONFIG, DECODER, ENCODER
from fairseq_prune.checkpoints.runtime.whisper import FILTERS, TOKENIZER, OnnxWhisper
from fairseq_prune.data.log_mel import mel_filters
from fairseq_prune.modules.keys_values import KeysValues
from fairseq_prune.modules.whisper.decoder import Cache
from fairseq_prune.modules.whisper.generation import suppressed_tokens
from fairseq_prune.pruning.attention import attention_bias
from fairseq_prune.pruning.criteria import Evidence
from fairseq_prune.pruning.tokens import Lengths

TOLERANCE = 1e-3  # of logits, relative to the largest
# right ones of 8 bits have 0.02 (whisper-base) and 0.04 (tiny.en); products that saturate, on x86 without VNNI, 0.15
INT8_TOLERANCE = 0.1
# convolutions of 8 bits are slower than those of 32; what the encoder gathers are positions, the decoder embeddings
QUANTIZED = {ENCODER: ["MatMul", "Gemm"], DECODER: ["MatMul", "Gemm", "Gather"]}


class ClipEncoder(nn.Module):
    """Features of a clip -> keys and values for the decoder's cross-attention.

    Which frames are taken, and how many stay, follows from the clip's length alone: the runtime computes it, and the
    graph takes it as further inputs, `plan_names`.
    """

    def __init__(self, model):
        super().__init__()
        self.encoder, self.layers = model.encoder, model.decoder.layers
        self.thins = model.encoder.silence_stride > 1
        self.pruned = [index for index, ratio in enumerate(model.encoder.pruning.keep_ratios) if ratio < 1.0]

    @property
    def plan_names(self) -> list[str]:
        """source, positions, sizes: (frames,) of each frame that is taken, as of `context.thinned`.

        lengths: (pruned layers, 2), the frames that compete for staying before and after a layer. ranks_L: (frames
        that stay after layer L,), 0, 1, 2, and so on.
        """
        taken = ["source", "positions", "sizes"] if self.thins else []
        return taken + (["lengths"] if self.pruned else []) + [f"ranks_{index}" for index in self.pruned]

    def forward(self, features: Tensor, *plan: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            features: (1, mel frames, mel bins).
            plan: as of `plan_names`.

        Returns:
            keys and values, each (decoder layers, 1, heads, frames, head dim); where silence is thinned, also what
            cross-attention adds to the logits of each frame (1, 1, 1, frames).
        """
        given = dict(zip(self.plan_names, plan))
        x = self.encoder.embed_taken(features, given.get("source"), given.get("positions"))
        sizes = given["sizes"][None] if self.thins else None
        for index, layer in enumerate(self.encoder.layers):
            if index in self.pruned:
                lengths = given["lengths"][self.pruned.index(index)]
                x, sizes = self._attend_and_drop(layer, x, sizes, lengths, given[f"ranks_{index}"])
            else:
                x = layer.attend(x, sizes=sizes)[0]
            x = layer.feed_forward(x)
        x = self.encoder.layer_norm(x)
        memory = [layer.encoder_attn.keys_values(x) for layer in self.layers]
        keys, values = stacked(memory)
        return (keys, values) if sizes is None else (keys, values, attention_bias(None, sizes, x.dtype))

    def _attend_and_drop(
        self, layer: nn.Module, x: Tensor, sizes: Optional[Tensor], lengths: Tensor, ranks: Tensor
    ) -> tuple[Tensor, Optional[Tensor]]:
        """The layer up to its feed-forward block, and `DropsFrames.drop_frames` of one clip."""
        rule = self.encoder.pruning.rule
        x, received, _ = layer.attend(x, sizes=sizes, scored=rule.reads_attention)
        before, after = (Lengths([], length) for length in lengths.split(1))
        scores = rule.score(Evidence(x, before, after, received))
        if self.encoder.keeps_silence:
            silent = torch.arange(x.size(1)) >= before.on_device
            scores = scores.masked_fill(silent, math.inf)
        order = (
            scores[0].sort(descending=True).indices
        )  # ONNX's TopK, which gives the earlier one where scores tie
        kept = order.index_select(0, ranks).sort().values
        return x.index_select(1, kept), sizes if sizes is None else sizes.index_select(1, kept)


class TokenDecoder(nn.Module):
    """A token (1, 1), keys and values of the encoder, and of the tokens before (layers, 1, heads, tokens, head dim).

    Where the encoder thins silence, what it adds to the logits of cross-attention (1, 1, 1, frames) comes last.

    Returns:
        logits (1, vocabulary) of the next token, and keys and values with this token's.
    """

    def __init__(self, model):
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self,
        token: Tensor,
        memory_keys: Tensor,
        memory_values: Tensor,
        keys: Tensor,
        values: Tensor,
        memory_bias: Optional[Tensor] = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        layers = self.decoder.layers
        memory = unstacked(memory_keys, memory_values, [layer.encoder_attn.num_heads for layer in layers])
        past = unstacked(keys, values, [layer.self_attn.num_heads for layer in layers])
        states, cache = self.decoder.decode(token, Cache(memory, memory_bias, past))
        # of two dimensions, which ONNX multiplies with the embedding as it lies: a third would have it transposed
        logits = self.decoder.output_layer(self.decoder.layer_norm(states[-1])[:, 0])
        return (logits, *stacked(cache.past))


def stacked(layers: Sequence[KeysValues]) -> tuple[Tensor, Tensor]:
    """Keys and values (layers, batch, heads, positions, head dim); zeros fill up layers of fewer heads."""
    most = max(1, *(layer.keys.size(1) for layer in layers))

    def filled(part: Tensor) -> Tensor:
        missing = most - part.size(1)
        return F.pad(part, (0, 0, 0, 0, 0, missing)) if missing else part

    keys, values = (torch.stack([filled(part) for part in parts]) for parts in zip(*layers))
    return keys, values


def unstacked(keys: Tensor, values: Tensor, heads: Sequence[int]) -> list[KeysValues]:
    """The layers of `stacked`, of so many heads each."""
    pairs = zip(heads, keys, values)
    return [KeysValues(*(x if count == x.size(1) else x[:, :count] for x in pair)) for count, *pair in pairs]


@export_format("onnx", ("whisper*",), int8=True)
def export_onnx(model, task, out: Path, options) -> None:
    """Write a folder for `runtime.whisper.OnnxWhisper`: two graphs, tokenizer, mel filters, and what it must know.

    Args:
        model: `models.whisper.Whisper`, of whatever context.
        task: ``spoken_language_understanding``, with the tokenizer.
        out: folder to write, which must not exist.
        options: of scripts/export.py; ``int8`` stores the weights of linear layers and embeddings in 8 bits.

    Raises:
        ValueError: frames are dropped in a way that the graph cannot hold; onnx or onnxruntime is missing, or gives
            other logits than the model.
    """
    require_libraries()
    require_held(model.encoder.pruning)
    out.mkdir(parents=True)
    _write_graphs(model, out)
    config = runtime_config(model, task)
    (out / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    (out / TOKENIZER).write_text(task.tokenizer.to_json(), encoding="utf-8")
    np.save(out / FILTERS, mel_filters(config["mel_bins"]).numpy())
    _compare(model, task, out, TOLERANCE)
    if getattr(options, "int8", False):
        for name, operators in QUANTIZED.items():
            quantize(out / name, out / name, operators)
        _compare(model, task, out, INT8_TOLERANCE)


def runtime_config(model, task) -> dict:
    """What the runtime must know besides the graphs; arguments as of `export_onnx`."""
    encoder, decoder, tokenizer = model.encoder, model.decoder, task.tokenizer
    never, first = suppressed_tokens(tokenizer) if str(task.cfg.suppress_tokens) == "non_speech" else ([], [])
    return {
        "prefix": task.prefix,
        "end": tokenizer.dictionary.eos(),
        "suppressed": never,
        "suppressed_first": first,
        "mel_bins": encoder.conv1.in_channels,
        "mel_frames": encoder.max_positions(),
        "audio_context": encoder.audio_context,
        "silence_stride": encoder.silence_stride,
        "keep_ratios": [encoder.keep_ratio(index) for index in range(len(encoder.layers))],
        "keep_at_least": encoder.pruning.minimum,
        "keeps_silence": encoder.keeps_silence,
        "max_tokens": decoder.max_positions(),
        "decoder_layers": len(decoder.layers),
        "heads": max(1, *(layer.self_attn.num_heads for layer in decoder.layers)),
        "head_dim": decoder.layers[0].self_attn.head_dim,
    }


def _write_graphs(model, out: Path) -> None:
    dim = torch.export.Dim
    frames = dim("mel_frames", min=2, max=model.encoder.max_positions())
    places = dim("frames", min=1, max=model.encoder.embed_positions.num_embeddings)
    tokens = dim("tokens", min=0, max=model.decoder.max_positions() - 1)
    encoder, decoder = ClipEncoder(model).eval(), TokenDecoder(model).eval()
    features = torch.rand(1, 50, model.encoder.conv1.in_channels)
    plan = {"lengths": torch.zeros(len(encoder.pruned), 2, dtype=torch.long)}
    varying = {"lengths": None}
    if encoder.thins:
        taken = {0: dim("taken", min=1, max=model.encoder.embed_positions.num_embeddings)}
        plan.update(source=torch.arange(20), positions=torch.arange(20), sizes=torch.ones(20))
        varying.update(source=taken, positions=taken, sizes=taken)
    for stage, index in enumerate(encoder.pruned):
        plan[f"ranks_{index}"] = torch.arange(15 - stage)
        varying[f"ranks_{index}"] = {0: dim(f"kept_{index}", min=1, max=places.max)}
        plan["lengths"][stage] = torch.tensor([16 - stage, 15 - stage])
    plan = [plan[name] for name in encoder.plan_names]
    varying = tuple(varying[name] for name in encoder.plan_names)
    width = model.decoder.embed_tokens.embedding_dim
    with torch.no_grad():
        memory = encoder(features, *plan)
        past = stacked(
            [layer.self_attn.keys_values(torch.rand(1, 3, width)) for layer in model.decoder.layers]
        )
    given = ["memory_keys", "memory_values", "memory_bias"][: len(memory)]
    graphs = {
        ENCODER: (
            encoder,
            (features, *plan),
            ["features", *encoder.plan_names],
            given,
            ({1: frames}, varying) if varying else ({1: frames},),
        ),
        DECODER: (
            decoder,
            (torch.tensor([[0]]), *memory[:2], *past, *memory[2:]),
            ["token", *given[:2], "keys", "values", *given[2:]],
            ["logits", "new_keys", "new_values"],
            (None, {3: places}, {3: places}, {3: tokens}, {3: tokens}, *[{3: places}] * len(memory[2:])),
        ),
    }
    for name, (module, *described) in graphs.items():
        arguments, inputs, outputs, dynamic = described
        write_graph(module, arguments, out / name, inputs, outputs, dynamic)


@torch.no_grad()
def _compare(model, task, folder: Path, tolerance: float) -> None:
    """Run both on what sounds like a voice, with the tokens that the model writes of it.

    The logits may differ by ``tolerance`` of the largest. Noise and tokens by chance are nothing that the model knows:
    there, 8 bits of a right export differ by as much as those of a wrong one on speech.
    """
    runner, decoder = OnnxWhisper(folder), model.decoder
    features = runner.features(like_a_voice(16_000 * min(300, model.encoder.max_positions() // 2) // 100))
    encoded = model.encoder(torch.from_numpy(features)[None], torch.tensor([len(features)]))
    tokens = list(task.prefix)
    for _ in range(min(8, decoder.max_positions() - len(tokens))):
        expected = decoder(torch.tensor([tokens]), encoded)[0][0]
        best = expected[-1].index_fill(0, torch.tensor(task.tokenizer.dictionary.eos()), -math.inf).argmax()
        tokens.append(int(best))
    memory, cache, found = runner.encode(features), runner.start(), []
    for token in tokens[: len(expected)]:
        logits, cache = runner.step(token, memory, cache)
        found.append(torch.from_numpy(logits.copy()))
    difference = float((torch.stack(found) - expected).abs().max() / expected.abs().max())
    if not difference < tolerance:
        raise ValueError(
            f"{folder}: ONNX Runtime's logits differ from the model's by {difference:.2g} of the largest, at most"
            f" {tolerance:g} was expected"
        )
    logging.getLogger(__name__).info(f"{folder}: logits differ by {difference:.2g} of the largest")


def like_a_voice(samples: int) -> np.ndarray:
    """Harmonics of a tone that rises and falls, in syllables with pauses, and a little noise: (samples,) at 16 kHz."""
    time = np.arange(samples) / 16_000
    phase = np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time)) / 16_000
    tone = sum(np.sin(2 * np.pi * harmonic * phase) / harmonic for harmonic in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1)
    noise = np.random.default_rng(0).standard_normal(samples)
    return (0.1 * tone * syllables + 0.001 * noise).astype(np.float32)
