"""The task speech_translation in one process: data, filters, vocabularies, checkpoint state.

Over 300 lines: each check of the data has a test.
"""

import io
import logging
import shutil

import numpy as np
import pytest
import soundfile
import torch
from fairseq.tasks import TASK_REGISTRY
from omegaconf import OmegaConf

from fairseq_prune.criterions.speech_translation import SpeechTranslationCriterion
from fairseq_prune.data.manifest import read_manifest, write_manifest
from fairseq_prune.data.utterance_edges import typical_edges
from fairseq_prune.tasks.speech_translation import SpeechTranslationConfig, SpeechTranslationTask
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary


def config(data, **options):
    filled = {"data": str(data), "seed": 1, "train_subset": "train", **options}
    return OmegaConf.merge(SpeechTranslationConfig(), filled)


def task_of(data, **options):
    return SpeechTranslationTask.setup_task(config(data, **options))


@pytest.fixture()
def data(prepared_data, tmp_path):
    """A copy of the prepared data that a test may damage."""
    return shutil.copytree(prepared_data, tmp_path / "data")


def edit(data, split, **changes):
    """Change the second row of a manifest."""
    path = data / f"{split}.tsv"
    rows = read_manifest(path)
    rows[1] = rows[1]._replace(**changes)
    write_manifest(path, rows)
    return path


def test_registered_class_is_ours():
    assert TASK_REGISTRY["speech_translation"] is SpeechTranslationTask


def test_dictionaries(prepared_data):
    task = task_of(prepared_data, ctc_text="source")
    assert task.source_dictionary is None
    assert task.target_dictionary is task.vocabularies["target"].dictionary
    assert task.transcript_dictionary is task.vocabularies["source"].dictionary
    assert task.ctc_dictionary is task.vocabularies["ctc"].dictionary
    assert task_of(prepared_data, ctc_text="target").ctc_dictionary.symbols == task.target_dictionary.symbols
    assert task_of(prepared_data).ctc_dictionary is None
    assert task.max_positions() is None


def test_batches_of_both_kinds_of_split(prepared_data):
    task = task_of(prepared_data, ctc_text="source", concat_rate=1.0)
    task.load_dataset("train")
    task.load_dataset("dev")
    train, dev = task.dataset("train"), task.dataset("dev")
    assert (train.items.members[:, 1] >= 0).any()
    assert dev.items.members.shape == (6, 1)
    batch = next(task.get_batch_iterator(dev, max_tokens=100_000).next_epoch_itr(shuffle=False))
    assert batch["net_input"]["src_tokens"].dtype == torch.float32
    rows = read_manifest(prepared_data / "dev.tsv")
    for place, index in enumerate(batch["id"].tolist()):
        assert task.vocabularies["target"].decode(batch["target"][place]) == rows[index].tgt_text
        assert batch["net_input"]["src_lengths"][place] == rows[index].n_frames


def test_train_split_is_whole_when_loaded_for_evaluation(prepared_data):
    task = task_of(prepared_data, max_source_samples=3200, concat_rate=1.0)
    task.load_dataset("train", task_cfg=task.cfg)
    assert len(task.dataset("train")) == 24
    assert not task.dataset("train").training


def test_training_filters_are_counted_and_logged(prepared_data, caplog):
    rows = read_manifest(prepared_data / "train.tsv")
    short = sum(row.n_frames < 4000 for row in rows)
    long = sum(row.n_frames > 7000 for row in rows)
    task = task_of(prepared_data, min_source_samples=4000, max_source_samples=7000)
    with caplog.at_level(logging.WARNING):
        task.load_dataset("train")
    assert short > 0 < long
    assert len(task.dataset("train")) == 24 - short - long
    assert f"{24 - short - long} of 24 utterances kept" in caplog.text
    assert f"{short} shorter than 4000 samples, {long} longer than 7000 samples, 0 with more" in caplog.text
    caplog.clear()
    task.load_dataset("dev")
    assert len(task.dataset("dev")) == 6


def test_long_targets_are_left_out(prepared_data):
    task = task_of(prepared_data, max_target_tokens=4)
    task.load_dataset("train")
    dataset = task.dataset("train")
    assert 0 < len(dataset) < 24
    assert max(dataset.size(index)[1] for index in range(len(dataset))) <= 4


def test_long_transcripts_are_left_out_and_counted(prepared_data, caplog):
    task = task_of(prepared_data, max_source_tokens=5)
    with caplog.at_level(logging.WARNING):
        task.load_dataset("train")
    dataset = task.dataset("train")
    assert 0 < len(dataset) < 24
    assert max(len(dataset[index]["transcript"]) for index in range(len(dataset))) <= 5
    assert f"{24 - len(dataset)} with more than 5 transcript tokens" in caplog.text


def test_joined_transcripts_keep_max_source_tokens(prepared_data):
    task = task_of(prepared_data, max_source_tokens=20, concat_rate=1.0, concat_max_utterances=5)
    task.load_dataset("train")
    dataset = task.dataset("train")
    lengths = [len(dataset[index]["transcript"]) for index in range(len(dataset))]
    assert 15 < max(lengths) <= 20


@pytest.mark.parametrize("text", ["target", "source"])
def test_more_tokens_than_the_model_has_positions_are_an_error(prepared_data, text):
    task = task_of(prepared_data, **{f"max_{text}_tokens": 600})
    cfg = OmegaConf.create({"_name": "hubert_deltalm", f"max_{text}_positions": 512})
    with pytest.raises(
        ValueError, match=f"--max-{text}-tokens 600 is more than the --max-{text}-positions 512"
    ):
        task.build_model(cfg)


def test_joined_targets_keep_max_target_tokens(prepared_data):
    task = task_of(prepared_data, max_target_tokens=20, concat_rate=1.0, concat_max_utterances=5)
    task.load_dataset("train")
    dataset = task.dataset("train")
    lengths = [len(dataset[index]["target"]) for index in range(len(dataset))]
    assert 15 < max(lengths) <= 20


def test_nothing_left_for_training_is_an_error(prepared_data):
    task = task_of(prepared_data, min_source_samples=100_000)
    with pytest.raises(ValueError, match=r"train\.tsv: no utterance is left for training: 24 shorter than"):
        task.load_dataset("train")


@pytest.mark.parametrize("split, skip", [("train", True), ("dev", False)])
def test_max_tokens_that_would_drop_utterances_is_an_error(prepared_data, split, skip):
    """fairseq's trainer says `ignore_invalid_inputs` for training, with --max-tokens among the limits."""
    task = task_of(prepared_data)
    task.load_dataset(split)
    samples = task.dataset(split).utterance_samples
    limit = int(np.median(samples))
    found = rf"must be at least {samples.max()}, .* found {limit}, for which {(samples > limit).sum()} of"
    with pytest.raises(ValueError, match=f"--max-tokens .* {found}"):
        task.get_batch_iterator(
            task.dataset(split), max_tokens=limit, max_positions=(limit, 200), ignore_invalid_inputs=skip
        )


def test_cached_audio_is_the_same(prepared_data):
    plain, cached = task_of(prepared_data), task_of(prepared_data, cache_audio=True)
    for task in (plain, cached):
        task.load_dataset("dev")
    for index in range(6):
        difference = cached.dataset("dev")[index]["waveform"] - plain.dataset("dev")[index]["waveform"]
        assert np.abs(difference).max() <= 0.5 / 32768 + 1e-7


# -- bad input: one clear line


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_wav_is_named(data):
    path = edit(data, "dev", audio="dev/wav/ted_absent.wav")
    with pytest.raises(FileNotFoundError, match=r"dev/wav/ted_absent\.wav: no such audio file") as error:
        task_of(data).load_dataset("dev")
    one_line(error)
    assert path.exists()


def test_truncated_wav_is_named(data, tmp_path):
    whole = tmp_path / "whole.wav"
    soundfile.write(whole, np.zeros(16000), 16000)
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:4000])
    edit(data, "dev", audio=str(tmp_path / "cut.wav"), id="cut", offset=0, n_frames=16000)
    with pytest.raises(ValueError, match=r"cut\.wav: utterance 'cut' ends at sample 16000 .* holds 1978"):
        task_of(data).load_dataset("dev")


def test_empty_manifest_is_named(data):
    (data / "dev.tsv").write_text("")
    with pytest.raises(ValueError, match=r"dev\.tsv: expected a header .* found an empty file"):
        task_of(data).load_dataset("dev")


def test_row_with_a_non_number_is_named(data):
    edit(data, "dev", n_frames="many")
    with pytest.raises(ValueError, match=r"dev\.tsv, line 3: n_frames must be .* found 'many'"):
        task_of(data).load_dataset("dev")


MT_LOSS = dict(sentence_avg=False, label_smoothing=0.1, ignore_prefix_size=0, report_accuracy=False)


@pytest.mark.parametrize("loss", ["ctc", "mt"])
def test_empty_transcript_that_training_needs_is_named(data, loss):
    edit(data, "train", src_text=" ")
    edit(data, "dev", src_text="")
    task = task_of(data, ctc_text="source" if loss == "ctc" else "none")
    if loss == "mt":
        SpeechTranslationCriterion(task, ctc_weight=0.0, mt_loss_weight=1.0, **MT_LOSS)
    task.load_dataset("dev")
    with pytest.raises(ValueError, match=r"train\.tsv, line 3: src_text is empty \(1 such lines\)") as error:
        task.load_dataset("train")
    one_line(error)


def test_empty_transcript_that_nothing_needs_is_no_error(data):
    edit(data, "train", src_text="")
    task = task_of(data, ctc_text="target")
    task.load_dataset("train")
    assert len(task.dataset("train")) > 0


def test_missing_data_directory_is_named_when_it_is_needed(tmp_path):
    task = task_of(tmp_path / "absent")
    for use in (lambda: task.target_dictionary, lambda: task.load_dataset("dev")):
        with pytest.raises(FileNotFoundError, match=r"absent/config\.yaml: no such data directory"):
            use()


def test_ctc_on_transcripts_without_their_vocabulary_is_an_error(data):
    content = (data / "config.yaml").read_text()
    (data / "config.yaml").write_text(content[: content.index("  ctc:")])
    with pytest.raises(ValueError, match="--ctc-text source needs a ctc vocabulary"):
        task_of(data, ctc_text="source")


@pytest.mark.parametrize("value", ["{", "[1]", "3"])
def test_bad_eval_bleu_args_are_an_error(prepared_data, value):
    with pytest.raises(ValueError, match="--eval-bleu-args must be a JSON object"):
        task_of(prepared_data, eval_bleu_args=value)


def test_augmentation_options_are_checked_at_once(prepared_data):
    with pytest.raises(ValueError, match="concat_rate must be from 0 to 1, found 2"):
        task_of(prepared_data, concat_rate=2.0)


# -- state in checkpoints


def saved_and_loaded(task):
    buffer = io.BytesIO()
    torch.save(task.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_task_from_state_needs_no_data_directory(prepared_data, tmp_path):
    trained = task_of(prepared_data, ctc_text="source")
    task = SpeechTranslationTask.from_state(config(tmp_path / "gone"), saved_and_loaded(trained))
    for name in ("target", "transcript", "ctc"):
        dictionaries = [getattr(t, f"{name}_dictionary").symbols for t in (trained, task)]
        assert dictionaries[0] == dictionaries[1]
    text = "eins zwei drei"
    assert task.build_bpe(None).decode(task.build_bpe(None).encode(text)) == text


def test_task_from_state_ignores_a_data_directory_of_other_vocabularies(prepared_data, data):
    state = saved_and_loaded(task_of(prepared_data))
    SentencePieceVocabulary.train(["ganz anders"], model_type="char").save(
        data / "spm.model", data / "dict.txt"
    )
    task = SpeechTranslationTask.from_state(config(data), state)
    assert task.target_dictionary.symbols == task_of(prepared_data).target_dictionary.symbols


def test_state_decides_what_ctc_is_trained_on(prepared_data):
    """fairseq-generate builds its task from the command line, where --ctc-text is not repeated."""
    task = task_of(prepared_data)
    task.load_state_dict(saved_and_loaded(task_of(prepared_data, ctc_text="source")))
    assert task.ctc_dictionary is task.vocabularies["ctc"].dictionary


def test_dictionary_that_does_not_fit_the_checkpoint_is_explained(prepared_data, data):
    state = saved_and_loaded(task_of(prepared_data))
    texts = [row.tgt_text for row in read_manifest(data / "train.tsv")]
    SentencePieceVocabulary.train(texts, 22).save(data / "spm.model", data / "dict.txt")
    with pytest.raises(ValueError, match="the target dictionary does not fit") as error:
        task_of(data).load_state_dict(state)
    message = one_line(error)
    assert f"{data / 'dict.txt'} has 22 symbols, the checkpoint has 24" in message
    assert "the first that differs is number" in message


def test_checkpoint_of_another_task_is_refused(prepared_data):
    with pytest.raises(ValueError, match="the checkpoint holds no vocabularies"):
        task_of(prepared_data).load_state_dict({})


def test_shared_vocabularies_are_stored_once(data):
    content = (data / "config.yaml").read_text().replace("spm_source.model", "spm.model")
    (data / "config.yaml").write_text(content.replace("dict_source.txt", "dict.txt"))
    state = task_of(data).state_dict()["vocabularies"]
    assert state["target"] is state["source"]
    assert state["target"] is not state["ctc"]


def test_resuming_with_another_dictionary_is_refused(prepared_data, data):
    saved = task_of(prepared_data).get_checkpoint_dict()["SpeechTranslationTask"]
    task_of(prepared_data).set_checkpoint_dict(saved)
    SentencePieceVocabulary.train(["ganz anders"], model_type="char").save(
        data / "spm.model", data / "dict.txt"
    )
    with pytest.raises(ValueError, match="the target dictionary does not fit"):
        task_of(data).set_checkpoint_dict(saved)


def test_a_checkpoint_says_what_the_training_utterances_were_like(prepared_data):
    task = task_of(prepared_data)
    assert "heard" not in task.state_dict()
    task.load_dataset("train")
    dataset = task.datasets["train"]
    samples = dataset.utterance_samples
    before, after = typical_edges(dataset.utterances, dataset.audio_folder, seed=1)
    heard = task.state_dict()["heard"]
    lengths = {"longest": samples.max(), "typical": int(np.median(samples))}
    assert heard == {**lengths, "before": before, "after": after}
    assert SpeechTranslationTask.from_state(task.cfg, task.state_dict()).heard == heard
    joined = task_of(prepared_data, concat_rate=0.5, concat_max_utterances=2)
    joined.load_dataset("train")
    assert joined.heard["longest"] == 2 * samples.max()


def test_drawn_silence_counts_among_what_was_heard(prepared_data):
    plain, drawn = task_of(prepared_data), task_of(prepared_data, edge_max_silence=1000)
    for task in (plain, drawn):
        task.load_dataset("train")
    more = {name: drawn.heard[name] - plain.heard[name] for name in plain.heard}
    assert more == {"longest": 2000, "typical": 1000, "before": 500, "after": 500}
    assert (drawn.datasets["train"].items.pauses > 0).any()


def test_an_older_checkpoint_says_nothing_of_edges(prepared_data):
    state = {**task_of(prepared_data).state_dict(), "heard": {"longest": 8000, "typical": 5000}}
    assert SpeechTranslationTask.from_state(config(prepared_data), state).heard == state["heard"]
