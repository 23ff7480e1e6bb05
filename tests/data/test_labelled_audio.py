"""Manifests for fairseq's audio_finetuning: what fairseq reads of them, and what is refused."""

import numpy as np
import pytest
import soundfile
import torch
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fairseq_prune.data.labelled_audio import (
    ENGLISH_LETTERS,
    Labelled,
    check_labels,
    count_labels,
    letters,
    read_split,
    words,
    write_split,
)
from fairseq_prune.text.dictionaries import read_dictionary, write_dictionary

WORD = st.text("ABC'", min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.lists(WORD, min_size=1, max_size=5).map(" ".join))
def test_words_come_back_from_letters(text):
    assert words(letters(text)) == text


def write_folder(folder, texts=("AN OAK", "I'M IN", "NO")):
    utterances = []
    for number, text in enumerate(texts):
        wave = 0.1 * np.sin(np.arange(2000 + 500 * number) * 0.1 * (number + 1))
        soundfile.write(folder / f"{number}.flac", wave, 16000)
        utterances.append(Labelled(f"{number}.flac", len(wave), letters(text), text))
    write_split(folder, "train", folder, utterances)
    write_dictionary(folder / "dict.ltr.txt", ENGLISH_LETTERS, count_labels(utterances))
    return utterances


def test_fairseq_reads_what_is_written(tmp_path):
    utterances = write_folder(tmp_path)
    cfg = OmegaConf.structured(AudioFinetuningConfig(data=str(tmp_path), labels="ltr"))
    cfg = OmegaConf.create({"task": cfg, "common": {"tpu": False, "seed": 1}}).task
    task = AudioFinetuningTask.setup_task(cfg)
    task.load_dataset("train")
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[i] for i in range(3)])
    assert batch["net_input"]["source"].shape == (3, 3000)
    assert (~batch["net_input"]["padding_mask"]).sum(1).tolist() == [2000, 2500, 3000]
    dictionary = task.target_dictionary
    assert len(dictionary) == dictionary.nspecial + 28
    for row, utterance in zip(batch["target"], utterances):
        assert not (row == dictionary.unk()).any()
        assert dictionary.string(row[row != dictionary.pad()]) == utterance.labels
    assert torch.isfinite(batch["net_input"]["source"]).all()


def test_a_split_is_read_back(tmp_path):
    utterances = write_folder(tmp_path)
    split = read_split(tmp_path, "train")
    assert split.labels == [utterance.labels for utterance in utterances]
    assert split.audio.samples.tolist() == [2000, 2500, 3000]
    assert (tmp_path / "train.wrd").read_text() == "AN OAK\nI'M IN\nNO\n"
    assert read_dictionary(tmp_path / "dict.ltr.txt").symbols[4:] == list(ENGLISH_LETTERS)


def test_a_label_outside_the_dictionary_is_named_with_its_utterance():
    with pytest.raises(ValueError, match="b.flac: label 'É' is not in the dictionary, which lacks É Ü"):
        check_labels(["a.flac", "b.flac", "c.flac"], ["A |", "A É |", "Ü |"], "A|")


def test_what_fairseq_would_choke_on_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train: expected an utterance or more"):
        write_split(tmp_path, "train", tmp_path, [])
    with pytest.raises(ValueError, match=r"a.wav: expected a line of text, found ''"):
        write_split(tmp_path, "train", tmp_path, [Labelled("a.wav", 1, "")])
    write_folder(tmp_path)
    (tmp_path / "train.ltr").write_text("A |\n")
    with pytest.raises(ValueError, match=r"train.ltr: expected 3 lines as in train.tsv, found 1"):
        read_split(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"train.phn: no such file of labels"):
        read_split(tmp_path, "train", "phn")
    (tmp_path / "dict.ltr.txt").write_text("A\n")
    with pytest.raises(
        ValueError, match=r"dict.ltr.txt, line 1: expected a symbol that is new and its count, found 'A'"
    ):
        read_dictionary(tmp_path / "dict.ltr.txt")
