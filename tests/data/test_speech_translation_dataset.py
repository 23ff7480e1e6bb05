"""The dataset: batches, order, sizes, cache, and the same audio in any worker and after resuming."""

import numpy as np
import pytest
import soundfile
import torch
from fairseq.data.iterators import EpochBatchIterator

from fairseq_prune.data.augmentation import Augmentation
from fairseq_prune.data.manifest import Utterance
from fairseq_prune.data.ragged import Ragged
from fairseq_prune.data.speech_translation_dataset import SpeechTranslationDataset, pad_waveforms
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

AUGMENTED = Augmentation(
    seed=3,
    max_samples=30_000,
    concat_rate=0.7,
    concat_max_utterances=3,
    speed_factors=(0.9, 1.1),
    noise_rate=0.5,
    gain_db=3,
)
GERMAN = ["eins", "zwei", "drei", "vier"]
ENGLISH = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """30 utterances of two speakers in one file of noise, and three vocabularies."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", rng.uniform(-0.5, 0.5, 400_000), 16000, subtype="PCM_16")
    rows = []
    for i in range(30):
        words = rng.integers(0, 4, rng.integers(1, 6))
        source, target = (" ".join(names[w] for w in words) for names in (ENGLISH, GERMAN))
        length = int(rng.integers(2000, 12_000))
        rows.append(Utterance(f"a_{i}", "a.wav", i * 12_500, length, source, target, f"spk.{i % 2}"))
    vocabularies = dict(
        target=SentencePieceVocabulary.train(GERMAN, model_type="char"),
        transcript=SentencePieceVocabulary.train(ENGLISH, model_type="char"),
        ctc=SentencePieceVocabulary.train(ENGLISH, model_type="char", casefold=True),
    )
    return rows, folder, vocabularies


def make(corpus, **options):
    rows, folder, vocabularies = corpus
    return SpeechTranslationDataset(rows, folder, **{**vocabularies, **options})


def test_batch_has_the_keys_shapes_and_values_of_the_interface(corpus):
    rows, folder, vocabularies = corpus
    dataset = make(corpus)
    batch = dataset.collater([dataset[4], dataset[7]])
    target = vocabularies["target"]
    pad, eos = target.dictionary.pad(), target.dictionary.eos()
    assert batch["id"].tolist() == [4, 7]
    assert batch["nsentences"] == 2
    assert batch["ntokens"] == sum(batch["target_lengths"].tolist())
    assert set(batch) == {
        *("id", "nsentences", "ntokens", "target", "target_lengths", "net_input"),
        *("transcript", "transcript_lengths", "ctc_target", "ctc_target_lengths"),
    }
    assert set(batch["net_input"]) == {"src_tokens", "src_lengths", "prev_output_tokens"}
    whole = soundfile.read(folder / "a.wav", dtype="float32")[0]
    for place, row in enumerate((rows[4], rows[7])):
        waveform = batch["net_input"]["src_tokens"][place]
        np.testing.assert_array_equal(waveform[: row.n_frames], whole[row.offset : row.offset + row.n_frames])
        assert batch["net_input"]["src_lengths"][place] == row.n_frames
        assert not waveform[row.n_frames :].any()
        tokens = [*target.encode(row.tgt_text).tolist(), eos]
        length = batch["target_lengths"][place]
        assert batch["target"][place, :length].tolist() == tokens
        assert (batch["target"][place, length:] == pad).all()
        assert batch["net_input"]["prev_output_tokens"][place, :length].tolist() == [eos, *tokens[:-1]]
        transcript = vocabularies["transcript"]
        length = batch["transcript_lengths"][place]
        expected = [*transcript.encode(row.src_text).tolist(), transcript.dictionary.eos()]
        assert batch["transcript"][place, :length].tolist() == expected
        length = batch["ctc_target_lengths"][place]
        assert (
            batch["ctc_target"][place, :length].tolist() == vocabularies["ctc"].encode(row.src_text).tolist()
        )


def test_streams_without_a_vocabulary_are_left_out(corpus):
    dataset = make(corpus, transcript=None, ctc=None)
    batch = dataset.collater([dataset[0]])
    assert not any(key.startswith(("transcript", "ctc")) for key in batch)


def test_ctc_targets_can_hold_the_target_text(corpus):
    rows, _, vocabularies = corpus
    dataset = make(corpus, ctc=vocabularies["target"], ctc_text="target")
    assert dataset[3]["ctc_target"].tolist() == vocabularies["target"].encode(rows[3].tgt_text).tolist()


def test_empty_batch_is_empty(corpus):
    assert make(corpus).collater([]) == {}


def test_joined_item_has_the_texts_and_audio_of_its_members(corpus):
    rows, _, vocabularies = corpus
    dataset = make(corpus, training=True, augmentation=AUGMENTED)
    for index in range(len(dataset)):
        members = [m for m in dataset.items.members[index] if m >= 0]
        item = dataset[index]
        text = " ".join(rows[m].tgt_text for m in members)
        assert vocabularies["target"].decode(item["target"]) == text
        text = " ".join(rows[m].src_text for m in members)
        assert vocabularies["transcript"].decode(item["transcript"]) == text
        assert (len(item["waveform"]), len(item["target"])) == dataset.size(index)
        assert dataset.num_tokens(index) == len(item["waveform"])
    assert (dataset.items.members[:, 1] >= 0).sum() > 5


def test_evaluation_is_never_augmented(corpus):
    dataset = make(corpus, training=False, augmentation=AUGMENTED)
    dataset.set_epoch(2)
    assert dataset.items.samples.tolist() == [row.n_frames for row in corpus[0]]
    assert dataset.can_reuse_epoch_itr_across_epochs


def test_cached_audio_equals_the_file(corpus):
    dataset, cached = make(corpus), make(corpus)
    cached.cache_audio()
    for index in range(len(dataset)):
        np.testing.assert_array_equal(cached[index]["waveform"], dataset[index]["waveform"])
    assert cached._cache.values.dtype == np.int16


def test_cache_clips_what_16_bits_cannot_hold(tmp_path, corpus):
    soundfile.write(tmp_path / "a.wav", np.array([1.5, -1.5, 0.25]), 16000, subtype="FLOAT")
    row = Utterance("a", "a.wav", 0, 3, "one", "eins", "s")
    dataset = SpeechTranslationDataset([row], tmp_path, target=corpus[2]["target"])
    dataset.cache_audio()
    np.testing.assert_allclose(dataset.read(0), [1, -1, 0.25], atol=1e-4)


def test_left_out_utterances_are_gone_everywhere(corpus):
    rows, _, vocabularies = corpus
    dataset = make(corpus, training=True)
    mask = np.arange(30) % 3 == 0
    dataset.keep(mask)
    assert len(dataset) == 10
    assert dataset.items.samples.tolist() == [row.n_frames for row in rows[::3]]
    assert vocabularies["target"].decode(dataset[4]["target"]) == rows[12].tgt_text
    assert len(dataset[4]["waveform"]) == rows[12].n_frames


def test_evaluation_order_is_longest_first(corpus):
    dataset = make(corpus)
    samples = dataset.items.samples[dataset.ordered_indices()]
    assert (np.diff(samples) <= 0).all()


def test_training_order_is_by_length_and_new_in_each_epoch(corpus):
    dataset = make(corpus, training=True)
    orders = []
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        orders.append(dataset.ordered_indices().tolist())
        assert sorted(orders[-1]) == list(range(30))
        assert (np.diff(dataset.items.samples[orders[-1]] // 1600) <= 0).all()
    assert orders[0] == orders[2] != orders[1]


def test_batches_keep_max_tokens_in_samples(corpus):
    dataset = make(corpus, training=True, augmentation=AUGMENTED)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens=60_000)
    assert sorted(index for batch in batches for index in batch) == list(range(30))
    for batch in batches:
        padded = dataset.collater([dataset[index] for index in batch])["net_input"]["src_tokens"]
        assert padded.numel() <= 60_000


def test_max_tokens_below_the_longest_utterance_is_explained(corpus):
    dataset = make(corpus)
    longest, too_long = dataset.items.samples.max(), (dataset.items.samples > 5000).sum()
    message = f"--max-tokens counts samples .* at least {longest}, .* found 5000, for which {too_long} of 30 "
    with pytest.raises(ValueError, match=message):
        dataset.fit_batches(5000)


def test_joined_items_keep_max_tokens(corpus):
    dataset = make(corpus, training=True, augmentation=AUGMENTED)
    dataset.set_epoch(3)
    limit = int(dataset.items.samples.max()) - 1
    dataset.fit_batches(limit)
    assert dataset.epoch == 3 and (dataset.items.members[:, 1] >= 0).any()
    for epoch in (3, 4):
        dataset.set_epoch(epoch)
        assert dataset.items.samples.max() <= limit


@pytest.mark.parametrize("limits", [8000, (8000, 12), (None, 12), (8000, None)])
def test_filter_by_size_splits_the_indices(corpus, limits):
    dataset = make(corpus)
    kept, ignored = dataset.filter_indices_by_size(np.arange(30), limits)
    samples, tokens = limits if isinstance(limits, tuple) else (limits, limits)
    expected = [
        i
        for i in range(30)
        if dataset.size(i)[0] <= (samples or 10**9) and dataset.size(i)[1] <= (tokens or 10**9)
    ]
    assert kept.tolist() == expected
    assert sorted(ignored + expected) == list(range(30))


def iterator(corpus, epoch, workers=0):
    """What fairseq's trainer makes of the dataset for an epoch."""
    dataset = make(corpus, training=True, augmentation=AUGMENTED)
    dataset.set_epoch(epoch)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens=60_000)
    return EpochBatchIterator(
        dataset, dataset.collater, batches, seed=1, epoch=epoch, num_workers=workers, reuse_dataloader=True
    )


def contents(batches):
    return [
        (b["id"].tolist(), b["target"].tolist(), b["net_input"]["src_tokens"].numpy().tobytes())
        for b in batches
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_within_an_epoch_gives_the_rest_of_it(corpus, workers):
    whole = contents(iterator(corpus, epoch=5).next_epoch_itr())
    assert len(whole) > 4
    interrupted = iterator(corpus, epoch=5, workers=workers)
    batches = interrupted.next_epoch_itr()
    first = contents(next(batches) for _ in range(2))
    state = interrupted.state_dict()
    resumed = iterator(corpus, epoch=state["epoch"], workers=workers)
    resumed.load_state_dict(state)
    assert first + contents(resumed.next_epoch_itr()) == whole


def test_epochs_differ_in_content(corpus):
    first, second = (contents(iterator(corpus, epoch=e).next_epoch_itr()) for e in (1, 2))
    assert {waveforms for *_, waveforms in first}.isdisjoint(waveforms for *_, waveforms in second)


def test_training_iterator_is_rebuilt_each_epoch(corpus):
    assert not make(corpus, training=True).can_reuse_epoch_itr_across_epochs


def test_pad_waveforms_gives_lengths():
    padded, lengths = pad_waveforms([np.ones(3, np.float32), np.ones(5, np.float32)])
    assert padded.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert padded.dtype == torch.float32
    assert lengths.tolist() == [3, 5]


def test_ragged_rows_are_views_and_selection_copies():
    rows = Ragged.of([np.array([1, 2]), np.array([], int), np.array([3])], np.int32)
    assert [row.tolist() for row in rows] == [[1, 2], [], [3]]
    rows[0][1] = 7
    assert rows.values.tolist() == [1, 7, 3]
    assert [row.tolist() for row in rows.select(np.array([True, False, True]))] == [[1, 7], [3]]
    assert len(Ragged.of([], np.int32)) == 0
