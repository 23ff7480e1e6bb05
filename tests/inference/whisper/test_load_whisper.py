"""Whispers of other libraries, which are imported in memory."""

import pytest
from small_whisper import huggingface_whisper, small_tokenizer

from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber


def folder_of_another(tmp_path):
    huggingface_whisper().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(small_tokenizer().to_json(), encoding="utf-8")
    return tmp_path


def test_options_that_the_foreign_file_knows_nothing_of_can_be_overridden(tmp_path):
    overrides = {"token_keep_ratio": 0.5, "token_keep_start_layer": 2, "silence_stride": 4}
    encoder = WhisperTranscriber(folder_of_another(tmp_path), overrides).listener.model.encoder
    assert list(encoder.pruning.keep_ratios) == [1.0, 0.5] and encoder.silence_stride == 4


def test_a_plain_decoder_keeps_the_weights_of_the_file(tmp_path):
    path = folder_of_another(tmp_path)
    names = set(dict(WhisperTranscriber(path, plain=True).listener.model.named_parameters()))
    assert "decoder.layers.0.fc1.weight" in names
    with pytest.raises(ValueError, match="int8 and plain: found both"):
        WhisperTranscriber(path, plain=True, int8=True)
