import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_whisper import clips, huggingface_whisper, our_names, small_tokenizer, small_whisper
from transformers.models.whisper import generation_whisper

from fairseq_prune.modules.whisper.alignment import (
    all_heads,
    choose_heads,
    cross_attention,
    follow_speech,
    frames_of_clip,
    monotonic_path,
    sharpen,
    token_starts,
)

TOKENIZER = small_tokenizer()


def slow_path(costs):
    """(sum, first frame of each token, length) of the cheapest path, cell by cell."""
    ways = np.full((costs.shape[0] + 1, costs.shape[1] + 1), np.inf)
    ways[0, 0] = 0
    for i in range(costs.shape[0]):
        for j in range(costs.shape[1]):
            ways[i + 1, j + 1] = costs[i, j] + min(ways[i, j], ways[i, j + 1], ways[i + 1, j])
    return ways[-1, -1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 10_000))
def test_the_path_is_the_cheapest_and_costs_what_it_says(tokens, frames, seed):
    costs = np.random.default_rng(seed).normal(size=(tokens, frames))
    path = monotonic_path(costs)
    assert path.cost == pytest.approx(slow_path(costs))
    assert path.starts[0] == 0 and (np.diff(path.starts) >= 0).all() and len(path.starts) == tokens


@pytest.mark.parametrize("seed", range(5))
def test_tokens_begin_where_the_published_algorithm_has_them(seed):
    costs = np.random.default_rng(seed).normal(size=(12, 40))
    text, time = generation_whisper._dynamic_time_warping(costs)
    jumps = np.diff(text, prepend=-1) > 0
    assert monotonic_path(costs).starts.tolist() == time[jumps].tolist()
    assert monotonic_path(costs).steps == len(text)


def test_there_is_no_path_without_frames():
    with pytest.raises(ValueError, match="a path through 3 tokens and 0 frames"):
        monotonic_path(np.zeros((3, 0)))


@pytest.fixture(scope="module")
def pair():
    theirs = huggingface_whisper()
    return theirs, small_whisper(our_names(theirs))


def test_weights_are_those_of_transformers(pair):
    theirs, ours = pair
    theirs.config._attn_implementation = "eager"
    features, lengths = clips(120, 120)
    tokens = torch.arange(12).view(2, 6) + 4
    with torch.no_grad():
        out = theirs(features.transpose(1, 2), decoder_input_ids=tokens, output_attentions=True)
        encoded = ours.encoder(features, lengths)
        seen, _ = frames_of_clip(encoded, [10, 10])
        heads = all_heads(ours.decoder)
        weights, _ = cross_attention(ours.decoder, tokens, encoded, heads, seen)
    expected = torch.stack([out.cross_attentions[layer][:, head] for layer, head in heads], dim=1)
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-5)


def test_sharpening_is_the_published_one():
    torch.manual_seed(0)
    weights = torch.rand(3, 5, 30).softmax(-1)
    spread, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    expected = generation_whisper._median_filter((weights - mean) / spread, 7)
    torch.testing.assert_close(sharpen(weights), expected)


def test_attention_stays_within_the_clip_and_its_padding(pair):
    _, ours = pair
    features, lengths = clips(120, 60)
    tokens = torch.arange(8).view(2, 4) + 4
    with torch.no_grad():
        encoded = ours.encoder(features, lengths)
        seen, times = frames_of_clip(encoded, [1.2, 0.6])
        weights, _ = cross_attention(ours.decoder, tokens, encoded, [(0, 1), (2, 3)], seen)
    assert weights.shape == (2, 2, 4, 60)
    assert weights[1, :, :, 30:].abs().max() == 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4))
    assert times[0, 10] == pytest.approx(0.2)


def test_frames_keep_their_time_where_others_were_dropped():
    encoded = {
        "encoder_out": [torch.zeros(1, 3, 4)],
        "encoder_padding_mask": [torch.tensor([[False, False, True]])],
        "positions": [torch.tensor([[2, 7, 0]])],
    }
    seen, times = frames_of_clip(encoded, [9.0])
    assert seen.tolist() == [[True, True, False]]
    assert times[0, :2].tolist() == pytest.approx([0.04, 0.14])


def picture(borders, frames, noise=0.0, forced=2, seed=0):
    """Weights (forced + tokens + end, frames) that light up each token between its borders."""
    rng = np.random.default_rng(seed)
    weights = noise * rng.random((forced + len(borders) + 1, frames)) + 1e-3
    for row, (start, end) in enumerate(zip(borders, [*borders[1:], frames])):
        weights[forced + row, start:end] += 1
    return torch.tensor(weights / weights.sum(-1, keepdims=True))


def test_borders_that_attention_shows_are_found():
    borders = [0, 14, 30, 41, 77]
    weights = torch.stack([picture(borders, 100, 0.2, seed=seed) for seed in range(3)])
    starts = token_starts(weights, forced=2)
    assert np.abs(starts - borders).max() <= 2


def test_heads_that_follow_the_speech_are_chosen():
    following = [picture([0, 14, 30, 41, 77], 100, 0.3, seed=seed) for seed in (1, 2)]
    torch.manual_seed(0)
    others = [torch.rand(8, 100).softmax(-1) for _ in range(3)]
    weights = torch.stack([others[0].double(), following[0], *(o.double() for o in others[1:]), following[1]])
    heads = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    scores = follow_speech(weights, forced=2)
    assert choose_heads(heads, scores, share=0.7) == [(0, 1), (2, 0)]
