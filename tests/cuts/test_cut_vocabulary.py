"""A model after the cut: the same logits for what is left, and so the same hypotheses."""

import base64

import pytest
import torch
from deltalm_files import build, published_weights
from fairseq.sequence_generator import SequenceGenerator
from slu_corpus import small_whisper, tokenizer

from fairseq_prune.checkpoints.deltalm import load_deltalm
from fairseq_prune.cuts.vocabulary import cut_checkpoint, plan_cut, vocabulary_in
from fairseq_prune.models.whisper import Whisper, WhisperConfig
from fairseq_prune.modules.deltalm.model import vocabulary_checksum
from fairseq_prune.modules.whisper.decoder import WhisperDecoder
from fairseq_prune.modules.whisper.encoder import WhisperEncoder
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary
from fairseq_prune.text.sentencepiece_cutting import CuttableSentencePiece

TEXTS = ["wake me up at nine", "what is the weather going to be like next week", "play the wings"]
GERMAN = ["laufen und spielen", "laufen auf der wiese im schnee", "spielen und lachen auf der wiese"]


def whisper_of(state):
    """The model of a checkpoint, and its tokenizer."""
    found = ByteLevelBPE.from_state_dict(state["task_state"])
    options = {key: value for key, value in state["cfg"]["model"].items() if key != "_name"}
    settings = WhisperConfig(**options)
    model = Whisper(WhisperEncoder(settings), WhisperDecoder(settings, found.dictionary))
    model.load_state_dict(state["model"])
    return model.eval(), found


@pytest.fixture(scope="module")
def whispers():
    """A checkpoint, its cut, and what was cut."""
    state = small_whisper(of=tokenizer(()))
    torch.manual_seed(3)
    for value in state["model"].values():
        if value.dim() > 1:
            value.normal_(std=0.6)
    table = state["model"]["decoder.embed_tokens.weight"].normal_(std=0.3)
    vocabulary = vocabulary_in(state, "whisper.pt")
    cut = plan_cut(vocabulary, TEXTS, labels=["[IN:x", "[SL:y"])
    rare = torch.ones(len(vocabulary), dtype=torch.bool)
    rare[cut.kept] = False
    table[rare] *= 0.8  # so that only some hypotheses have such tokens
    return state, cut_checkpoint(state, vocabulary, cut, "whisper.pt"), cut


def speech():
    torch.manual_seed(5)
    return {"src_tokens": torch.randn(40, 60, 80), "src_lengths": torch.full((40,), 60)}


def test_logits_of_kept_tokens_stay_and_labels_begin_as_means(whispers):
    state, small, cut = whispers
    [before, _], [after, _] = whisper_of(state), whisper_of(small)
    tokens = torch.tensor([cut.kept[:9]])
    inputs = {name: value[:1] for name, value in speech().items()}
    with torch.no_grad():
        dense = before(prev_output_tokens=tokens, **inputs)[0]
        pruned = after(prev_output_tokens=torch.tensor([cut.renumber(cut.kept[:9])]), **inputs)[0]
    torch.testing.assert_close(pruned[..., : len(cut.kept)], dense[..., cut.kept], rtol=1e-5, atol=1e-4)
    for label, pieces in enumerate(cut.labels.values(), start=len(cut.kept)):
        torch.testing.assert_close(pruned[..., label], dense[..., pieces].mean(-1), rtol=1e-4, atol=1e-3)


def forbid(model, kept):
    """Make the logits of all tokens but the kept ones -inf."""
    decoder, logits_of = model.decoder, model.decoder.output_layer
    penalty = torch.full((len(decoder.dictionary),), -torch.inf)
    penalty[kept] = 0
    decoder.output_layer = lambda features, **unused: logits_of(features) + penalty


def hypotheses(model, found, beam):
    """The symbols of the n-best hypotheses of each utterance."""
    generator = SequenceGenerator([model], found.dictionary, beam_size=beam, max_len_a=0, max_len_b=8)
    symbols = found.dictionary.symbols
    return [
        [[symbols[i] for i in hypothesis["tokens"]] for hypothesis in hypotheses]
        for hypotheses in generator.generate(
            [model], {"net_input": speech()}, bos_token=found.dictionary.bos()
        )
    ]


def without_labels(state, cut):
    """The small model, which never writes one of the labels that the dense one does not have."""
    model, found = whisper_of(state)
    forbid(model, list(range(len(cut.kept))))
    return model, found


def test_greedy_hypotheses_of_kept_tokens_stay(whispers):
    state, small, cut = whispers
    symbols = set(whisper_of(small)[1].dictionary.symbols)
    dense, pruned = hypotheses(*whisper_of(state), 1), hypotheses(*without_labels(small, cut), 1)
    covered = [pair for pair in zip(dense, pruned) if set(pair[0][0]) <= symbols]
    assert 3 < len(covered) < len(dense)
    assert all(before == after for before, after in covered)


@pytest.mark.parametrize("beam", [1, 4])
def test_hypotheses_are_those_of_the_dense_model_with_all_other_tokens_forbidden(whispers, beam):
    state, small, cut = whispers
    model, found = whisper_of(state)
    forbid(model, cut.kept)
    assert hypotheses(model, found, beam) == hypotheses(*without_labels(small, cut), beam)


def german_vocabulary():
    trained = SentencePieceVocabulary.train(GERMAN, 27)
    return CuttableSentencePiece(trained.model, trained.dictionary.symbols)


@pytest.mark.parametrize("keep_extra", [False, True])
def test_a_published_deltalm_gives_the_same_logits_for_what_is_left(tmp_path, keep_extra):
    vocabulary = german_vocabulary()
    torch.manual_seed(2)
    checkpoint = {"weights": published_weights(len(vocabulary) + 7)}
    cut = plan_cut(vocabulary, GERMAN[:1], keep_extra=keep_extra)
    small = cut_checkpoint(checkpoint, vocabulary, cut, "deltalm.pt")
    assert len(cut) < len(vocabulary)
    logits = []
    for name, state, symbols in (("a", checkpoint, vocabulary), ("b", small, vocabulary.cut(cut))):
        torch.save(state, tmp_path / name)
        encoder, decoder = (side.eval() for side in build(symbols.dictionary()))
        load_deltalm(str(tmp_path / name), encoder, decoder)
        [ids] = symbols.encode(GERMAN[:1])
        with torch.no_grad():
            tokens = torch.tensor([ids])
            logits.append(decoder(tokens, encoder_out=encoder(tokens, torch.tensor([len(ids)])))[0])
    torch.testing.assert_close(logits[1], logits[0][..., cut.kept], rtol=1e-5, atol=1e-5)
    assert len(small["weights"]["tgt_embedding.embed_tokens.weight"]) == len(cut) + 7 * keep_extra


def test_tables_that_were_one_tensor_stay_one_and_others_are_not_touched():
    vocabulary = german_vocabulary()
    checkpoint = {"weights": published_weights(len(vocabulary))}
    new = cut_checkpoint(checkpoint, vocabulary, plan_cut(vocabulary, GERMAN[:1]), "d.pt")["weights"]
    tables = [new[f"{side}_embedding.embed_tokens.weight"] for side in ("src", "tgt")]
    assert tables[0].data_ptr() == tables[1].data_ptr()
    rest = [name for name in new if not name.endswith("embed_tokens.weight")]
    assert all(new[name] is checkpoint["weights"][name] for name in rest) and len(rest) == len(new) - 2


def speech_translation_state(ctc_text):
    """The parts of a checkpoint that a vocabulary is in: the target's is the source's, but not that of ctc."""
    vocabulary, other = german_vocabulary(), SentencePieceVocabulary.train(GERMAN, model_type="char")
    stamp = torch.tensor(vocabulary_checksum(vocabulary.dictionary()))
    stored = {
        "symbols": "\n".join(vocabulary.symbols),
        "sentencepiece": base64.b64encode(vocabulary.model).decode(),
    }
    weights = {"decoder.vocabulary_version": stamp, "text_encoder.vocabulary_version": torch.tensor(7)}
    for name in ("decoder.embed_tokens", "decoder.output_projection", "text_encoder.embed_tokens"):
        weights[f"{name}.weight"] = torch.randn(len(vocabulary), 4)
    weights["encoder.ctc_head.weight"] = torch.randn(len(vocabulary), 5)
    weights["encoder.ctc_head.bias"] = torch.randn(len(vocabulary))
    vocabularies = {"target": stored, "source": dict(stored), "ctc": other.state_dict()}
    return vocabulary, {
        "model": weights,
        "task_state": {"ctc_text": ctc_text, "vocabularies": vocabularies},
        "last_optimizer_state": {"exp_avg": 1},
        "extra_state": {"epoch": 1, "ema": {}, "ema_fp32_params": {}},
    }


@pytest.mark.parametrize("ctc_text", ["none", "source", "target"])
def test_all_that_has_the_vocabulary_is_cut_and_nothing_else(ctc_text):
    vocabulary, state = speech_translation_state(ctc_text)
    cut = plan_cut(vocabulary, GERMAN[:1])
    small = cut_checkpoint(state, vocabulary, cut, "checkpoint.pt")
    rows = {name: len(value) for name, value in small["model"].items() if value.dim()}
    of_ctc = len(cut) if ctc_text == "target" else len(vocabulary)
    assert rows == {
        "decoder.embed_tokens.weight": len(cut),
        "decoder.output_projection.weight": len(cut),
        "text_encoder.embed_tokens.weight": len(vocabulary),  # whose stamp is of another dictionary
        "encoder.ctc_head.weight": of_ctc,
        "encoder.ctc_head.bias": of_ctc,
    }
    stored = {
        name: SentencePieceVocabulary.from_state_dict(v)
        for name, v in small["task_state"]["vocabularies"].items()
    }
    assert len(stored["target"]) == len(stored["source"]) == len(cut) != len(stored["ctc"])
    assert int(small["model"]["decoder.vocabulary_version"]) == vocabulary_checksum(
        stored["target"].dictionary
    )
    assert small["last_optimizer_state"] is None and small["extra_state"] == {"epoch": 1}


@pytest.mark.parametrize("rows, found", [(-1, 26), (104, 131)])
def test_weights_of_another_vocabulary_are_refused(rows, found):
    vocabulary = german_vocabulary()
    checkpoint = {"weights": published_weights(len(vocabulary) + rows)}
    with pytest.raises(
        ValueError, match=f"d.pt: weights and tokenizer do not fit: .* has {found} rows, .* 27 tokens"
    ):
        cut_checkpoint(checkpoint, vocabulary, plan_cut(vocabulary, GERMAN), "d.pt")


def test_a_checkpoint_whose_stamp_is_of_other_symbols_is_refused():
    vocabulary, state = speech_translation_state("none")
    state["model"]["decoder.vocabulary_version"] += 1
    with pytest.raises(ValueError, match="no embedding is of this vocabulary"):
        cut_checkpoint(state, vocabulary, plan_cut(vocabulary, GERMAN), "checkpoint.pt")
