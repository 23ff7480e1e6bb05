"""DeltaLM-base in its real size, with the vocabulary of a small corpus: same hypotheses, in less time."""

import subprocess
import sys
import time

import pytest
import torch
from command_lines import ROOT
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.sequence_generator import SequenceGenerator
from test_real_size import deltalm_base

from fairseq_prune.checkpoints.deltalm import load_deltalm
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.deltalm.settings import DeltaLMSettings
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary


def model_in(folder):
    """The model of a folder, and its vocabulary."""
    vocabulary = SentencePieceVocabulary.load(folder / "spm.model", folder / "dict.txt")
    settings = DeltaLMSettings(share_embeddings="all")
    decoder = DeltaLMDecoder.build(settings, vocabulary.dictionary)
    encoder = DeltaLMEncoder.build(settings, vocabulary.dictionary, decoder.embed_tokens)
    load_deltalm(str(folder / "deltalm-base.pt"), encoder, decoder)
    return FairseqEncoderDecoderModel(encoder, decoder).eval(), vocabulary


def hypotheses(model, vocabulary, texts):
    """(symbols of the best, scores of all) of the hypotheses of beam 5 for each text, and the seconds they took."""
    generator = SequenceGenerator([model], vocabulary.dictionary, beam_size=5, max_len_a=0, max_len_b=20)
    start, found = time.perf_counter(), []
    for text in texts:
        source = torch.cat([vocabulary.encode(text), torch.tensor([vocabulary.dictionary.eos()])])[None]
        sample = {"net_input": {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])}}
        with torch.inference_mode():
            [best] = generator.generate([model], sample)
        scores = [float(hypothesis["score"]) for hypothesis in best]
        found.append(([vocabulary.dictionary[i] for i in best[0]["tokens"]], scores))
    return found, time.perf_counter() - start


@pytest.mark.slow
def test_deltalm_base_with_the_vocabulary_of_a_corpus_finds_the_same_in_less_time(must_c_root, tmp_path):
    [german, *_] = sorted((must_c_root / "en-de" / "data" / "train" / "txt").glob("*.de"))
    texts = german.read_text(encoding="utf-8").splitlines()
    deltalm_base(tmp_path, texts)
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "prune_vocab.py", "--checkpoint", "deltalm-base.pt"]
        + ["--spm-model", "spm.model", "--dict", "dict.txt", "--text", german, "--out", "small"],
        cwd=tmp_path,
        check=True,
    )
    dense, vocabulary = model_in(tmp_path)
    small, kept = model_in(tmp_path / "small")
    assert len(vocabulary) == 250_001 and len(kept) <= 24
    times = [
        [hypotheses(*pair, texts[:2])[1] for pair in ((dense, vocabulary), (small, kept))] for _ in range(3)
    ]
    fastest = [min(column) for column in zip(*times)]
    print(f"dense {fastest[0]:.2f} s, pruned {fastest[1]:.2f} s: {fastest[0] / fastest[1]:.2f}x")
    sizes = [(folder / "deltalm-base.pt").stat().st_size for folder in (tmp_path, tmp_path / "small")]
    print(f"checkpoint {sizes[0] / 1e6:.0f} MB, pruned {sizes[1] / 1e6:.0f} MB")
    assert fastest[0] > 1.5 * fastest[1]
    found = []  # with all other tokens forbidden, the dense model searches among the same hypotheses
    penalty = torch.full((len(vocabulary),), -torch.inf)
    penalty[[vocabulary.dictionary.index(symbol) for symbol in kept.dictionary.symbols]] = 0
    logits_of = dense.decoder.output_layer
    dense.decoder.output_layer = lambda features: logits_of(features) + penalty
    for model, symbols in ((dense, vocabulary), (small, kept)):
        found.append(hypotheses(model, symbols, texts[:4])[0])
    for before, after in zip(*found):
        assert before[0] == after[0]
        assert before[1] == pytest.approx(after[1], abs=1e-4)
