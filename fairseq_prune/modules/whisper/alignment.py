"""When Whisper's tokens are spoken, from the attention that its decoder pays to the encoder.

Some heads of the cross-attention follow the speech. Their weights, tokens by frames, are a picture with a bright line
from the first token and frame to the last of both; dynamic time warping finds that line (as openai/whisper does, whose
choices of normalisation and filter these are).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILTER_WIDTH = 7  # frames that the median is taken of
FRAME_SECONDS = 0.02  # of the encoder's frames
Heads = Sequence[tuple[int, int]]  # (decoder layer, head)


class Path(NamedTuple):
    """A monotonic path through tokens and frames.

    starts: (tokens,), the first frame of each token. cost: sum over the path. steps: its length.
    """

    starts: np.ndarray
    cost: float
    steps: int


def all_heads(decoder: nn.Module) -> list[tuple[int, int]]:
    """Every head of the cross-attention."""
    return [
        (layer, head)
        for layer, block in enumerate(decoder.layers)
        for head in range(block.encoder_attn.num_heads)
    ]


def cross_attention(
    decoder: nn.Module, tokens: Tensor, encoder_out: dict[str, list[Any]], heads: Heads, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention weights of some heads while the decoder reads the given tokens.

    Args:
        decoder: a `WhisperDecoder`.
        tokens: (batch, tokens), the forced prefix first.
        encoder_out: of the encoder, a row for each row of the tokens.
        heads: (layer, head) of each.
        seen: (batch, frames), False where the weights shall be zero, such as on padding.

    Returns:
        weights (batch, heads, tokens, frames), the sum over frames is 1; the decoder's output (batch, tokens, dim).
    """
    queries: dict[int, Tensor] = {}
    hooks = []
    for layer in sorted({layer for layer, _ in heads}):

        def keep(module, inputs, output, layer=layer):
            queries[layer] = output

        hooks.append(decoder.layers[layer].encoder_attn.q_proj.register_forward_hook(keep))
    try:
        features, _ = decoder(tokens, encoder_out, features_only=True)
    finally:
        for hook in hooks:
            hook.remove()
    memory = encoder_out["encoder_out"][0]
    scores = []
    for layer, head in heads:
        attention = decoder.layers[layer].encoder_attn
        part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        keys = F.linear(memory, attention.k_proj.weight[part])
        query = queries[layer].reshape(*tokens.shape, -1)[..., part]
        scores.append(query.float() @ keys.float().transpose(1, 2) * attention.head_dim**-0.5)
    weights = torch.stack(scores, dim=1).masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
    return weights, features


def sharpen(weights: Tensor) -> Tensor:
    """Bring out what is special for a token: normalise each frame over the tokens, take the median over time.

    Args:
        weights: (heads, tokens, frames).

    Returns:
        The same shape.
    """
    spread, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    weights = (weights - mean) / spread.clamp(min=torch.finfo(weights.dtype).tiny)
    margin = FILTER_WIDTH // 2
    if weights.size(-1) <= margin:
        return weights
    padded = F.pad(weights, (margin, margin), mode="reflect")
    return padded.unfold(-1, FILTER_WIDTH, 1).median(-1).values


def monotonic_path(costs: np.ndarray) -> Path:
    """The cheapest path from the first token and frame to the last of both (dynamic time warping).

    A step goes to the next token, the next frame or both. With C the sums of a row of costs, the cheapest way D to
    frame j of a token that is entered from A, the cheaper of two ways of the token before, is

        D[j] = C[j] + min over k <= j of (A[k] - C[k - 1])

    so that a token takes a few operations on vectors, and none on single frames.

    Args:
        costs: (tokens, frames).

    Raises:
        ValueError: there is no token or no frame.
    """
    tokens, frames = costs.shape
    if not tokens or not frames:
        raise ValueError(f"a path through {tokens} tokens and {frames} frames")
    costs = costs.astype(np.float64)
    entered = np.zeros(
        (tokens, frames), dtype=np.int64
    )  # the frame at which the cheapest way to here came in
    diagonal = np.zeros((tokens, frames), dtype=bool)  # came in from the frame before, not from the same
    ways = np.cumsum(costs[0])
    for token in range(1, tokens):
        sums = np.cumsum(costs[token])
        from_before = np.concatenate([[np.inf], ways[:-1]])
        diagonal[token] = from_before < ways
        come_in = np.minimum(from_before, ways) - np.concatenate([[0.0], sums[:-1]])
        lowest = np.minimum.accumulate(come_in)
        entered[token] = np.maximum.accumulate(np.where(come_in == lowest, np.arange(frames), 0))
        ways = sums + lowest
    starts, frame, steps = np.zeros(tokens, dtype=np.int64), frames - 1, frames
    for token in range(tokens - 1, 0, -1):
        starts[token] = frame = entered[token, frame]
        if diagonal[token, frame]:
            frame -= 1
        else:
            steps += 1
    return Path(starts, float(ways[-1]), steps)


def token_starts(weights: Tensor, forced: int) -> np.ndarray:
    """The frames (tokens,) at which tokens begin; the last one is the end of the text.

    Args:
        weights: (heads, tokens, frames) of the alignment heads, the frames of silence left out.
        forced: tokens of the prefix, but for its last; these have no time.
    """
    picture = sharpen(weights).mean(0)[forced:-1]
    return monotonic_path(-picture.cpu().numpy()).starts


def follow_speech(weights: Tensor, forced: int) -> np.ndarray:
    """How well each head follows the speech: the mean over its own best path, in standard deviations.

    Args:
        weights: (heads, tokens, frames), as of `token_starts`.

    Returns:
        (heads,), the higher the better.
    """
    pictures = sharpen(weights)[:, forced:-1].cpu().numpy()
    paths = [monotonic_path(-picture) for picture in pictures]
    return np.array([-path.cost / path.steps for path in paths])


def choose_heads(heads: Heads, scores: np.ndarray, at_most: int = 8, share: float = 0.5) -> list:
    """The heads that follow the speech best.

    Args:
        heads: (layer, head) of each.
        scores: (heads,) of `follow_speech`, a mean over clips.
        at_most: how many.
        share: of the best score that a head needs.
    """
    order = [int(i) for i in np.argsort(-scores, kind="stable")[:at_most]]
    return sorted(heads[i] for i in order if scores[i] >= share * scores[order[0]])


def frames_of_clip(encoder_out: dict[str, list[Any]], seconds: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Which of the encoder's frames lie within the clip, and when.

    Frames that token pruning dropped are none; those that are left keep their time.

    Args:
        encoder_out: of the encoder.
        seconds: of each clip.

    Returns:
        (batch, frames), True within the clip and not on padding; the seconds at which frames begin, the same shape.
    """
    memory = encoder_out["encoder_out"][0]
    positions: Optional[Tensor] = next(iter(encoder_out.get("positions") or []), None)
    if positions is None:
        positions = torch.arange(memory.size(1), device=memory.device).expand(len(memory), -1)
    frames = [math.ceil(round(length / FRAME_SECONDS, 3)) for length in seconds]
    seen = positions < torch.tensor(frames, device=memory.device)[:, None]
    seen[:, 0] = True  # also of a clip that is shorter than a frame
    for padding in encoder_out["encoder_padding_mask"]:
        seen &= ~padding
    return seen, positions * FRAME_SECONDS
