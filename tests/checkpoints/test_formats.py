"""The table of export formats."""

import pytest

from fairseq_prune.checkpoints.formats import formats_of


def test_a_model_has_the_formats_that_its_folder_registers():
    assert set(formats_of("whisper_tiny_en")) == {"hf", "ctranslate2", "onnx"}
    assert set(formats_of("wavlm")) == {"dphubert", "torchaudio", "hf", "onnx"}
    assert set(formats_of("wav2vec_ctc_parp")) == set(formats_of("hubert_ctc")) == {"hf", "onnx"}
    assert set(formats_of("hubert_deltalm_tiny")) == {"hf", "onnx"}
    assert {name for name, row in formats_of("whisper").items() if row.int8} == {"ctranslate2", "onnx"}


@pytest.mark.parametrize("name", ["deltalm", "transformer"])
def test_a_model_without_format_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"a model '{name}' has no export format; found formats for dphubert, "
    ):
        formats_of(name)
