"""Augmentation: plans keep their limits for all seeds, and waveforms are as long as planned."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.data.augmentation import Augmentation

ALL = dict(
    concat_rate=0.8,
    concat_max_utterances=4,
    concat_max_pause=3000,
    speed_factors=(0.9, 1.0, 1.1),
    noise_rate=0.5,
    gain_db=6.0,
)


def corpus(n_utterances, n_speakers, seed=0):
    rng = np.random.default_rng(seed)
    samples = rng.integers(1000, 40_000, n_utterances)
    return samples, rng.integers(1, 40, n_utterances), rng.integers(0, n_speakers, n_utterances)


@given(
    seed=st.integers(0, 2**31),
    epoch=st.integers(1, 1000),
    n_utterances=st.integers(1, 60),
    n_speakers=st.integers(1, 8),
    max_samples=st.integers(20_000, 90_000),
    max_tokens=st.integers(20, 80),
    max_source_tokens=st.integers(20, 80),
    any_speaker=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_plans_keep_the_limits(
    seed, epoch, n_utterances, n_speakers, max_samples, max_tokens, max_source_tokens, any_speaker
):
    samples, tokens, speakers = corpus(n_utterances, n_speakers, seed)
    augmentation = Augmentation(
        seed=seed,
        max_samples=max_samples,
        max_tokens=max_tokens,
        max_source_tokens=max_source_tokens,
        concat_any_speaker=any_speaker,
        **ALL,
    )
    source_tokens = tokens[::-1]
    plan = augmentation.plan(epoch, samples, tokens, speakers, source_tokens)
    for index, members in enumerate(plan.members):
        joined = members[members >= 0]
        assert joined[0] == index
        assert (members[: len(joined)] == joined).all(), "members come before the empty places"
        assert index not in joined[1:]
        assert any_speaker or len(set(speakers[joined])) == 1
        assert plan.pauses[index][0] == 0
        assert (plan.pauses[index][len(joined) :] == 0).all()
        assert plan.pauses[index].max() <= 3000
        assert plan.tokens[index] == tokens[joined].sum()
        total = samples[joined].sum() + plan.pauses[index].sum()
        assert plan.samples[index] == -(-total * 100 // plan.speeds[index])
        assert plan.samples[index] <= max(max_samples, samples[index])
        assert len(joined) == 1 or plan.samples[index] <= max_samples
        assert len(joined) == 1 or plan.tokens[index] <= max_tokens
        assert len(joined) == 1 or source_tokens[joined].sum() <= max_source_tokens


@given(seed=st.integers(0, 2**31), max_samples=st.integers(20_000, 60_000), most=st.integers(1, 20_000))
@settings(max_examples=40, deadline=None)
def test_edges_get_silence_where_it_fits(seed, max_samples, most):
    samples, tokens, speakers = corpus(40, 2, seed)
    plain = Augmentation(seed=seed, max_samples=max_samples, **ALL)
    plan = plain.plan(1, samples, tokens, speakers)
    edged = replace(plain, edge_max_silence=most).plan(1, samples, tokens, speakers)
    assert (edged.members == plan.members).all() and (edged.speeds == plan.speeds).all()
    edges = edged.pauses[:, [0, -1]]
    assert (edged.pauses[:, 1:-1] == plan.pauses[:, 1:-1]).all()
    assert edges.min() >= 0 and edges.max() <= most
    assert (edged.samples <= np.maximum(max_samples, plan.samples)).all()
    fits = plan.samples + 2 * most / 0.9 + 1 <= max_samples
    assert not fits.any() or edges[fits].sum() > 0 or most < 3


def test_edges_are_before_the_first_and_after_the_last():
    augmentation = Augmentation(edge_max_silence=400)
    assert augmentation.changes_anything
    plan = augmentation.plan(1, np.full(50, 1000), np.full(50, 3), np.zeros(50, int))
    before, after = plan.pauses[7]
    item = augmentation.apply([np.ones(1000, np.float32)], plan.pauses[7], 100, 1, 7)
    np.testing.assert_array_equal(item, np.pad(np.ones(1000, np.float32), (before, after)))
    assert before != after and plan.pauses.mean() == pytest.approx(200, abs=40)


@given(seed=st.integers(0, 1000), index=st.integers(0, 19))
@settings(max_examples=40, deadline=None)
def test_item_is_as_long_as_planned_and_within_range(seed, index):
    samples, tokens, speakers = corpus(20, 2)
    augmentation = Augmentation(seed=seed, **ALL)
    plan = augmentation.plan(3, samples, tokens, speakers)
    members = plan.members[index][plan.members[index] >= 0]
    rng = np.random.default_rng(seed)
    waveforms = [rng.uniform(-1, 1, samples[m]).astype(np.float32) for m in members]
    item = augmentation.apply(waveforms, plan.pauses[index], plan.speeds[index], 3, index)
    assert item.dtype == np.float32
    assert item.shape == (plan.samples[index],)
    assert np.abs(item).max() <= 1


def test_rates_and_numbers_are_those_asked_for():
    samples, tokens, speakers = corpus(20_000, 50)
    plan = Augmentation(**{**ALL, "concat_rate": 0.6}).plan(1, samples, tokens, speakers)
    sizes = (plan.members >= 0).sum(axis=1)
    assert np.mean(sizes > 1) == pytest.approx(0.6, abs=0.02)
    assert np.mean(sizes == 4) == pytest.approx(0.2, abs=0.02)
    assert np.mean(plan.speeds == 90) == pytest.approx(1 / 3, abs=0.02)
    pauses = plan.pauses[:, 1][sizes > 1]
    assert pauses.mean() == pytest.approx(1500, rel=0.03)


def test_every_other_utterance_of_the_speaker_can_be_the_partner():
    speakers = np.array([0, 1, 0, 0, 1, 2])
    augmentation = Augmentation(concat_rate=1.0)
    samples = tokens = np.full(6, 100)
    drawn = [set() for _ in speakers]
    for epoch in range(200):
        for index, (_, partner) in enumerate(augmentation.plan(epoch, samples, tokens, speakers).members):
            drawn[index].add(int(partner))
    assert drawn == [{2, 3}, {4}, {0, 3}, {0, 2}, {1}, {-1}]


def test_plan_depends_on_seed_and_epoch_only():
    arrays = corpus(50, 3)

    def members(seed, epoch):
        return Augmentation(seed=seed, **ALL).plan(epoch, *arrays).members.tolist()

    assert members(1, 5) == members(1, 5)
    assert members(1, 5) != members(1, 6)
    assert members(1, 5) != members(2, 5)


def test_defaults_leave_everything_as_it_is():
    samples, tokens, speakers = corpus(10, 2)
    augmentation = Augmentation()
    assert not augmentation.changes_anything
    plan = augmentation.plan(4, samples, tokens, speakers)
    assert plan.members.tolist() == [[i] for i in range(10)]
    assert plan.samples.tolist() == samples.tolist()
    waveform = np.random.default_rng(0).uniform(-1, 1, samples[2]).astype(np.float32)
    item = augmentation.apply([waveform], plan.pauses[2], plan.speeds[2], 4, 2)
    np.testing.assert_array_equal(item, waveform)


def test_joined_waveforms_keep_order_and_pause():
    first, second = np.full(50, 0.5, np.float32), np.full(70, -0.25, np.float32)
    item = Augmentation().apply([first, second], np.array([0, 30, 0]), 100, 1, 0)
    np.testing.assert_array_equal(item, np.concatenate([first, np.zeros(30, np.float32), second]))


@pytest.mark.parametrize("percent", [90, 110])
def test_speed_moves_the_pitch(percent):
    time = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 500 * time).astype(np.float32) * 0.5
    item = Augmentation().apply([tone], np.array([0, 0]), percent, 1, 0)
    spectrum = np.abs(np.fft.rfft(item))
    peak = spectrum.argmax() * 16000 / len(item)
    assert peak == pytest.approx(500 * percent / 100, abs=2)


@pytest.mark.parametrize("snr", [0.0, 15.0])
def test_noise_has_the_level_asked_for(snr):
    tone = 0.2 * np.sin(np.arange(40_000) / 5).astype(np.float32)
    augmentation = Augmentation(noise_rate=1.0, noise_min_snr=snr, noise_max_snr=snr)
    noise = augmentation.apply([tone], np.array([0, 0]), 100, 1, 0) - tone
    assert 10 * np.log10(np.mean(tone**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.3)


def test_gain_stays_in_its_range_and_both_ways():
    tone = 0.1 * np.sin(np.arange(1000) / 5).astype(np.float32)
    augmentation = Augmentation(gain_db=6.0)
    gains = [
        20 * np.log10(np.abs(augmentation.apply([tone], np.array([0, 0]), 100, 1, index)).max() / tone.max())
        for index in range(100)
    ]
    assert -6.01 <= min(gains) < -4 < 4 < max(gains) <= 6.01


def test_noise_differs_between_items_and_epochs_but_not_between_calls():
    tone = np.zeros(100, np.float32) + 0.1
    augmentation = Augmentation(noise_rate=1.0)

    def item(epoch, index):
        return augmentation.apply([tone], np.array([0, 0]), 100, epoch, index).tolist()

    assert item(1, 0) == item(1, 0)
    assert item(1, 0) != item(1, 1)
    assert item(1, 0) != item(2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concat_rate": 1.5}, "concat_rate must be from 0 to 1, found 1.5"),
        ({"noise_rate": -0.1}, "noise_rate must be from 0 to 1, found -0.1"),
        ({"concat_max_utterances": 1}, "concat_max_utterances must be at least 2, found 1"),
        ({"concat_max_pause": -1}, "concat_max_pause must not be negative, found -1"),
        ({"edge_max_silence": -1}, "edge_max_silence must not be negative, found -1"),
        ({"speed_factors": (0.1,)}, "speed_factors must be from 0.5 to 2, found"),
        ({"speed_factors": ()}, "speed_factors must be from 0.5 to 2, found"),
        ({"noise_min_snr": 30, "noise_max_snr": 10}, "noise_min_snr 30 is above noise_max_snr 10"),
        ({"gain_db": -1}, "gain_db must not be negative, found -1"),
    ],
)
def test_values_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
