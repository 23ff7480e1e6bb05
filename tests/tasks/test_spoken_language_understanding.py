"""The task: batches, forced prefix, tokenizer in checkpoints, scores in validation, bad input."""

import numpy as np
import pytest
import soundfile
import torch
from fairseq.logging import metrics
from omegaconf import OmegaConf
from slu_corpus import LABELS, PARSES, small_task, small_whisper, tokenizer, write_data

from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.data.manifest import read_manifest, write_manifest
from fairseq_prune.evaluation.slu_scores import CORPORA, total
from fairseq_prune.tasks.spoken_language_understanding import SpokenLanguageUnderstandingTask, read_tokenizer
from fairseq_prune.text.fairseq_bpe import FairseqBPE


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


def batch(task, split="dev"):
    task.load_dataset(split)
    dataset = task.datasets[split]
    return dataset.collater([dataset[i] for i in range(len(dataset))])


def test_the_decoder_reads_the_prefix_and_is_scored_on_what_follows(data):
    task = small_task(data)
    found, pad = batch(task), task.target_dictionary.pad()
    n = len(task.prefix) - 1
    assert found["net_input"]["prev_output_tokens"][:, : n + 1].tolist() == [task.prefix] * len(PARSES)
    assert (found["target"][:, :n] == pad).all() and n > 0
    scored = found["target"] != pad
    inputs, following = found["net_input"]["prev_output_tokens"][:, n + 1 :], scored[:, n + 1 :]
    assert torch.equal(found["target"][:, n:-1][following], inputs[following])
    assert [task.tokenizer.decode(row[row != pad]) for row in found["target"]] == PARSES
    assert found["ntokens"] == int(scored.sum())
    last = (scored * torch.arange(scored.size(1))).argmax(1, keepdim=True)
    assert (found["target"].gather(1, last) == task.target_dictionary.eos()).all()


def test_features_are_those_of_each_clip_alone(data):
    found = batch(small_task(data))["net_input"]
    for i, (features, length) in enumerate(zip(found["src_tokens"], found["src_lengths"])):
        alone = log_mel(torch.from_numpy(soundfile.read(data / "audio" / f"{i}.wav", dtype="float32")[0]))
        assert length == len(alone) and torch.equal(features[:length], alone)
        assert features[length:].abs().max() == 0 if length < len(features) else True


def test_speed_and_volume_change_in_training_only(data):
    task = small_task(data, speed_factors=[0.8], gain_db=6.0)
    slower, same = batch(task, "train")["net_input"], batch(task, "dev")["net_input"]
    assert (slower["src_lengths"] > 1.2 * same["src_lengths"] - 3).all()
    assert torch.equal(batch(small_task(data), "dev")["net_input"]["src_tokens"], same["src_tokens"])


def test_a_language_comes_with_its_task_token(data):
    task = small_task(data, language="en")
    names = [task.target_dictionary[index] for index in task.prefix]
    assert names == ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


def test_what_generation_needs_is_the_checkpoints_unless_a_flag_says_otherwise(data):
    imported = {"language": "en", "spoken_task": "transcribe", "suppress_tokens": "non_speech"}
    for flags in ({}, {"suppress_tokens": "none"}):
        task = small_task(data, **flags)
        task.load_dataset("dev", task_cfg=OmegaConf.create(imported))
        assert {name: task.cfg[name] and str(task.cfg[name]) for name in imported} == {**imported, **flags}
    older = small_task(data)
    older.load_dataset("dev", task_cfg=OmegaConf.create({"language": None}))
    assert (older.cfg.language, str(older.cfg.suppress_tokens)) == (None, "none")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_parses_are_checked_before_models_are_loaded_and_another_scorer_is_named(data, split):
    rows = read_manifest(data / f"{split}.tsv")
    write_manifest(
        data / f"{split}.tsv", [*rows[:1], rows[1]._replace(tgt_text="[IN:WEATHER now ]"), *rows[2:]]
    )
    given = small_task(data, eval_slu="slurp", valid_subset="dev").cfg
    given.bpe_tokenizer = str(data / "tokenizer.json")
    with pytest.raises(ValueError) as error:
        SpokenLanguageUnderstandingTask.setup_task(given)
    assert f"{split}.tsv, line 3: expected an intent [IN:scenario_action" in str(error.value)
    assert "--eval-slu stop scores such parses" in str(error.value)


def test_a_checkpoint_needs_no_tokenizer_beside_it(data):
    task = small_task()
    dictionary = task.target_dictionary  # fairseq-generate asks before it loads
    task.load_state_dict(small_task(data).state_dict())
    assert dictionary.symbols == task.target_dictionary.symbols == tokenizer().dictionary.symbols
    assert (dictionary.pad(), dictionary.eos()) == (
        task.target_dictionary.pad(),
        task.target_dictionary.eos(),
    )


def test_labels_with_a_space_come_back_from_fairseqs_strings_of_symbols():
    spaced = tokenizer([" [SL:date", "[IN:alarm_set"])
    text = "[IN:alarm_set [SL:date next week ] ]"
    ids = spaced.encode(text)
    assert len(ids) < len(tokenizer(["[IN:alarm_set", "[SL:date"]).encode(text))
    assert FairseqBPE(spaced).decode(spaced.dictionary.string(torch.tensor(ids))) == text


def test_a_checkpoint_with_another_tokenizer_is_refused(data):
    with pytest.raises(ValueError, match="the target dictionary does not fit"):
        small_task(data).load_state_dict(tokenizer(LABELS[:-1]).state_dict())


def test_a_tokenizer_is_read_from_a_checkpoint(tmp_path):
    small_whisper(tmp_path / "whisper.pt")
    assert read_tokenizer(tmp_path / "whisper.pt").dictionary.symbols == tokenizer().dictionary.symbols


def test_validation_scores_are_those_of_all_batches_together(data):
    task = small_task(data, eval_slu="slurp")
    rows = [task.tokenizer.encode(text) for text in PARSES]
    wrong = task.tokenizer.encode("[IN:alarm_set [SL:time ten ] [SL:date")
    found = [[{"tokens": rows[0]}], [{"tokens": rows[3]}], [{"tokens": wrong}], [{"tokens": rows[3]}]]
    logs = [task._counts(found[:3], rows[:3]), task._counts(found[3:], rows[3:])]
    read = CORPORA["slurp"].read
    expected = total(
        CORPORA["slurp"].counts(read(gold), predicted)
        for gold, predicted in zip(PARSES, [read(PARSES[0]), read(PARSES[3]), None, read(PARSES[3])])
    )

    class NoLoss:
        reduce_metrics = staticmethod(lambda logs: None)

    with metrics.aggregate() as aggregator:
        task.reduce_metrics([{**log, "ntokens": 1, "nsentences": 1} for log in logs], NoLoss())
    for name in ("intent_accuracy", "slu_f1"):
        assert aggregator.get_smoothed_value(name) == round(100 * expected[name].f1, 2)
    assert aggregator.get_smoothed_value("intent_accuracy") == 50


def spoil(data, **changes):
    rows = read_manifest(data / "dev.tsv")
    rows[1] = rows[1]._replace(**changes)
    write_manifest(data / "dev.tsv", rows)


def long_audio(data):
    soundfile.write(data / "audio" / "long.wav", np.zeros(31 * 16000), 16000)
    spoil(data, audio="audio/long.wav", n_frames=31 * 16000)


@pytest.mark.parametrize(
    "change, problem",
    [
        (long_audio, "dev.tsv: utterance 'u1' has 31.0 s, the model's context is 30 s"),
        (lambda data: spoil(data, tgt_text=" "), "dev.tsv, line 3: tgt_text is empty"),
        (lambda data: spoil(data, tgt_text="[IN:play_music"), "dev.tsv, line 3: malformed parse"),
        (lambda data: (data / "dev.tsv").write_text(""), "dev.tsv: expected a header"),
        (lambda data: (data / "dev.tsv").unlink(), "dev.tsv: no such manifest"),
        (lambda data: (data / "audio" / "1.wav").unlink(), "1.wav: no such audio file"),
    ],
)
def test_bad_data_is_refused_in_one_line(change, problem, data):
    task = small_task(data, eval_slu="slurp")
    change(data)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        task.load_dataset("dev")
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_bad_options_are_refused(data):
    with pytest.raises(ValueError, match="no tokenizer: --bpe-tokenizer"):
        small_task().require_tokenizer()
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        small_task().load_dataset("dev")
    with pytest.raises(ValueError, match="--eval-slu-args must be a JSON object"):
        small_task(data, eval_slu_args="beam=5")
    with pytest.raises(ValueError, match="--mel-bins 128: the model takes 80 mel bins"):
        small_task(data, mel_bins=128).build_model(OmegaConf.create(small_whisper()["cfg"]["model"]), True)
    with pytest.raises(ValueError, match="no utterance is left for training"):
        small_task(data, min_source_samples=10**6).load_dataset("train")
