"""Manifests of audio alone, and the batches made of them."""

import numpy as np
import pytest
import torch
from tones import write_tones

from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.waveform_dataset import WaveformDataset
from fairseq_prune.data.waveform_manifest import read_waveform_manifest, write_waveform_manifest

LENGTHS = [4000, 8000, 6000, 3000]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    names = write_tones(folder, LENGTHS)
    write_waveform_manifest(folder / "train.tsv", folder, names, LENGTHS)
    return folder / "train.tsv"


def dataset(manifest, **options):
    return WaveformDataset(
        read_waveform_manifest(manifest), **{"max_samples": 100_000, "crop": True, **options}
    )


def batch_of(data, indices):
    return data.collater([data[index] for index in indices])


def test_a_manifest_is_read_as_it_was_written(manifest):
    read = read_waveform_manifest(manifest)
    assert read.root == manifest.parent and read.samples.tolist() == LENGTHS
    assert read.paths == ["a/00.wav", "b/01.wav", "a/02.wav", "b/03.wav"]


def test_a_relative_folder_starts_at_the_manifest(manifest, tmp_path):
    moved = manifest.parent / "moved.tsv"
    moved.write_text(".\na/00.wav\t4000\n")
    assert read_waveform_manifest(moved).root == manifest.parent


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found 0 lines"),
        (".\n", "found 1 lines"),
        (".\na/00.wav\n", "line 2: expected a path, a tab and a number"),
        (".\na/00.wav\t0\n", "line 2: expected"),
        (".\na/00.wav\t4000\nb/01.wav\t1e3\n", "line 3: expected"),
    ],
)
def test_bad_rows_are_named(manifest, text, message):
    bad = manifest.parent / "bad.tsv"
    bad.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_waveform_manifest(bad)


def test_missing_files_are_counted(manifest):
    bad = manifest.parent / "bad.tsv"
    bad.write_text(".\na/00.wav\t4000\nx.wav\t5\ny.wav\t5\n")
    with pytest.raises(FileNotFoundError, match=r"bad.tsv: no such audio file: .*x.wav \(and 1 more\)"):
        read_waveform_manifest(bad)


def test_a_name_with_a_tab_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="tab"):
        write_waveform_manifest(tmp_path / "x.tsv", tmp_path, ["a\tb.wav"], [3])


def test_cropped_batches_have_no_padding_and_hold_pieces_of_the_files(manifest):
    data = dataset(manifest, training=True)
    batch = batch_of(data, [0, 1, 3])
    assert batch["net_input"]["lengths"] == [3000] * 3 and batch["ntokens"] == 9000
    for row, index in zip(batch["net_input"]["source"], (0, 1, 3)):
        whole = read_audio(data.manifest.root / data.manifest.paths[index])
        places = [
            i
            for i in range(len(whole) - 2999)
            if whole[i] == row[0] and (whole[i : i + 3000] == row.numpy()).all()
        ]
        assert places, index


def test_padded_batches_hold_the_whole_files(manifest):
    batch = batch_of(dataset(manifest, crop=False), [3, 0])
    source, lengths = batch["net_input"]["source"], batch["net_input"]["lengths"]
    assert source.shape == (2, 4000) and lengths == [3000, 4000]
    assert not source[0, 3000:].any() and source[0, 2900:3000].any()


def test_crops_differ_by_epoch_and_come_back(manifest):
    data = dataset(manifest, max_samples=2000, training=True)

    def crop(epoch):
        data.set_epoch(epoch)
        return batch_of(data, [1, 2])["net_input"]["source"]

    first, second = crop(1), crop(2)
    assert first.shape == (2, 2000) and not torch.equal(first, second) and torch.equal(first, crop(1))


def test_evaluation_takes_the_start_of_long_files(manifest):
    data = dataset(manifest, max_samples=2000)
    row = batch_of(data, [1])["net_input"]["source"][0]
    np.testing.assert_array_equal(row, read_audio(data.manifest.root / "b/01.wav", 0, 2000))


def test_training_shuffles_files_of_one_length_only(manifest):
    data = dataset(manifest, training=True)
    assert data.ordered_indices().tolist() == [1, 2, 0, 3]
    data.sizes[:] = 4000
    orders = []
    for epoch in range(1, 6):
        data.set_epoch(epoch)
        orders.append(tuple(data.ordered_indices()))
    assert len(set(orders)) > 1 and all(sorted(order) == [0, 1, 2, 3] for order in orders)


def test_a_file_longer_than_a_batch_is_refused(manifest):
    with pytest.raises(ValueError, match="--max-tokens.*8000"):
        dataset(manifest).check_batches(5000)
    dataset(manifest, max_samples=5000).check_batches(5000)
