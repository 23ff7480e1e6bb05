from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.pruning.vocabulary import choose_tokens
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary
from fairseq_prune.text.sentencepiece_cutting import CuttableSentencePiece

SYLLABLES = "lau fen gro sse klei ne hun de schnee ball win ter spie len gra sen".split()
WORDS = [first + second for first in SYLLABLES for second in ("", "de", "len", "ter", "ball", "sen")]
TEXTS = [" ".join(WORDS[(k * k + 37 * i) % len(WORDS)] for i in range(4 + k % 5)) for k in range(300)]
TEXTS += ["quarz joch vypern"]
CORPUS = TEXTS[5:7]


def trained(model_type):
    vocabulary = SentencePieceVocabulary.train(TEXTS, None if model_type == "char" else 80, model_type)
    return CuttableSentencePiece(vocabulary.model, vocabulary.dictionary.symbols)


def cut_to(vocabulary, texts, min_count=1, labels=()):
    pieces = dict(zip(labels, vocabulary.encode(labels)))
    counts = Counter(i for ids in vocabulary.encode(texts) for i in ids)
    cut = choose_tokens(vocabulary.subwords(), counts, min_count, pieces)
    return cut, vocabulary.cut(cut)


DENSE = {model_type: trained(model_type) for model_type in ("unigram", "bpe", "char")}
CUTS = {model_type: cut_to(vocabulary, CORPUS) for model_type, vocabulary in DENSE.items()}


@pytest.mark.parametrize("model_type", DENSE)
@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*WORDS, "schneeball", "gern", "qü", "日本", "w"]), max_size=8).map(" ".join))
def test_a_text_whose_pieces_all_stay_keeps_its_pieces(model_type, text):
    dense, (cut, small) = DENSE[model_type], CUTS[model_type]
    [before], [after] = dense.encode([text]), small.encode([text])
    if set(before) <= set(cut.kept):
        assert after == cut.renumber(before)


@pytest.mark.parametrize("model_type", DENSE)
@pytest.mark.parametrize("min_count", [1, 3])
def test_every_text_of_the_corpus_is_encoded_without_an_unknown_piece(model_type, min_count):
    dense = DENSE[model_type]
    _, small = cut_to(dense, CORPUS, min_count)
    assert len(small) < len(dense) - 2
    for text, ids in zip(CORPUS, small.encode(CORPUS)):
        assert small.unknown not in ids
        assert small.decode(ids) == text


@pytest.mark.parametrize("model_type", DENSE)
def test_labels_are_single_symbols_at_the_end(model_type):
    labels = ["[IN:x", "[SL:ball"]
    cut, small = cut_to(DENSE[model_type], CORPUS, labels=labels)
    assert small.symbols[-2:] == labels
    [ids] = small.encode(["hunde [IN:x klei [SL:ball"])
    assert [i for i in ids if i >= len(cut.kept)] == [len(small) - 2, len(small) - 1]
    assert small.decode(ids) == "hunde [IN:x klei [SL:ball"


def test_files_come_back_as_they_were_written_and_fit_the_vocabulary_of_the_tasks(tmp_path):
    _, small = CUTS["unigram"]
    small.save(tmp_path)
    vocabulary = SentencePieceVocabulary.load(tmp_path / "spm.model", tmp_path / "dict.txt")
    assert (vocabulary.model, vocabulary.dictionary.symbols) == (small.model, small.symbols)
    assert [ids.tolist() for ids in vocabulary.encode_all(CORPUS)] == small.encode(CORPUS)


def test_a_dictionary_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"mine: .*do not fit: \d+ of 80 pieces are not among"):
        CuttableSentencePiece(DENSE["unigram"].model, DENSE["char"].symbols, "mine")


def test_another_file_is_refused():
    with pytest.raises(ValueError, match="expected a sentencepiece model"):
        CuttableSentencePiece(b"no model", DENSE["char"].symbols)


def test_a_label_that_would_come_back_changed_is_refused():
    with pytest.raises(ValueError, match=r"label ' \[IN:x' cannot be a symbol"):
        DENSE["unigram"].with_labels([" [IN:x"])
