"""Vocabularies: text to ids and back, fitting files, sizes, and the state that goes into checkpoints."""

import io
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.text.fairseq_bpe import FairseqBPE
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

TEXTS = ["null eins zwei drei", "vier fünf sechs, sieben!", "acht neun", "Zwei und siebzig"]


@pytest.fixture(scope="module")
def vocabulary():
    return SentencePieceVocabulary.train(TEXTS, 32)


@pytest.mark.parametrize(("model_type", "size"), [("unigram", 32), ("bpe", 40), ("char", None)])
def test_decoding_inverts_encoding(model_type, size):
    vocabulary = SentencePieceVocabulary.train(TEXTS, size, model_type)
    assert size is None or len(vocabulary) == size
    for text in TEXTS:
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_dictionary_begins_as_fairseqs(vocabulary):
    assert vocabulary.dictionary.symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert vocabulary.encode(TEXTS[0]).min() > vocabulary.dictionary.unk()


def test_encode_all_equals_encode(vocabulary):
    for text, tokens in zip(TEXTS, vocabulary.encode_all(TEXTS)):
        assert tokens.tolist() == vocabulary.encode(text).tolist()


words = st.lists(st.sampled_from(" ".join(TEXTS).split()), min_size=1, max_size=5).map(" ".join)


@given(first=words, second=words)
@settings(max_examples=50, deadline=None)
def test_joined_texts_have_joined_tokens(vocabulary, first, second):
    """What joining utterances at training time relies on."""
    joined = vocabulary.encode(f"{first} {second}").tolist()
    assert joined == vocabulary.encode(first).tolist() + vocabulary.encode(second).tolist()


def test_unknown_character_becomes_unk_and_special_tokens_are_not_text(vocabulary):
    dictionary = vocabulary.dictionary
    tokens = vocabulary.encode("acht Ω").tolist()
    assert tokens[-1] == dictionary.unk()
    framed = [dictionary.bos(), *vocabulary.encode("acht").tolist(), dictionary.eos(), dictionary.pad()]
    assert vocabulary.decode(framed) == "acht"


def test_casefolded_vocabulary_ignores_case():
    vocabulary = SentencePieceVocabulary.train(TEXTS, model_type="char", casefold=True)
    assert vocabulary.encode("ZWEI").tolist() == vocabulary.encode("zwei").tolist()


def test_training_twice_gives_the_same(vocabulary):
    assert SentencePieceVocabulary.train(TEXTS, 32).model == vocabulary.model


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_too_large_a_size_is_refused_with_the_largest_that_works(model_type):
    with pytest.raises(ValueError, match=r"at most \d+ symbols, asked for 5000") as error:
        SentencePieceVocabulary.train(TEXTS, 5000, model_type)
    largest = int(str(error.value).split("at most ")[1].split()[0])
    assert len(SentencePieceVocabulary.train(TEXTS, largest, model_type)) == largest


def test_too_small_a_size_is_refused_with_the_smallest_that_works():
    with pytest.raises(ValueError, match=r"needs at least \d+ symbols, asked for 9") as error:
        SentencePieceVocabulary.train(TEXTS, 9, "bpe")
    smallest = int(str(error.value).split("at least ")[1].split()[0])
    assert len(SentencePieceVocabulary.train(TEXTS, smallest, "bpe")) == smallest


def test_no_text_unknown_type_and_missing_size_are_refused():
    with pytest.raises(ValueError, match="no text to train it on"):
        SentencePieceVocabulary.train(["", " "], 30)
    with pytest.raises(ValueError, match="must be one of unigram, bpe, char, found 'word'"):
        SentencePieceVocabulary.train(TEXTS, 30, "word")
    with pytest.raises(ValueError, match="a bpe vocabulary needs a size"):
        SentencePieceVocabulary.train(TEXTS, None, "bpe")


@pytest.fixture()
def files(tmp_path, vocabulary):
    vocabulary.save(tmp_path / "spm.model", tmp_path / "dict.txt")
    return tmp_path / "spm.model", tmp_path / "dict.txt"


def test_saved_files_load_as_the_same(files, vocabulary):
    loaded = SentencePieceVocabulary.load(*files)
    loaded.require_equal(vocabulary, "target")
    assert loaded.encode(TEXTS[1]).tolist() == vocabulary.encode(TEXTS[1]).tolist()


def test_dictionary_in_another_order_with_more_symbols_is_matched_by_symbol(files, vocabulary):
    """DeltaLM's dictionary is not in the order of its sentencepiece model."""
    spm, dictionary = files
    lines = dictionary.read_text(encoding="utf-8").splitlines()
    dictionary.write_text("\n".join([*reversed(lines), "<mask> 1"]) + "\n", encoding="utf-8")
    loaded = SentencePieceVocabulary.load(spm, dictionary)
    assert len(loaded) == len(vocabulary) + 1
    assert loaded.encode(TEXTS[0]).tolist() != vocabulary.encode(TEXTS[0]).tolist()
    assert [loaded.dictionary[i] for i in loaded.encode(TEXTS[0])] == vocabulary.encode_pieces(TEXTS[0])
    assert loaded.decode(loaded.encode(TEXTS[0])) == TEXTS[0]


def test_dictionary_that_lacks_a_piece_is_refused(files):
    spm, dictionary = files
    lines = dictionary.read_text(encoding="utf-8").splitlines()
    dictionary.write_text("\n".join(lines[:-2]) + "\n", encoding="utf-8")
    missing = lines[-2].split()[0]
    with pytest.raises(ValueError, match=f"do not fit: 2 of 32 pieces .* the first is '{missing}'"):
        SentencePieceVocabulary.load(spm, dictionary)


def test_files_of_another_kind_are_refused(files):
    spm, dictionary = files
    with pytest.raises(ValueError, match="expected a sentencepiece model, found"):
        SentencePieceVocabulary.load(dictionary, dictionary)
    with pytest.raises(ValueError, match=r"spm\.model, line \d+: expected UTF-8 text"):
        SentencePieceVocabulary.load(spm, spm)
    with pytest.raises(FileNotFoundError, match=r"absent\.txt: no such vocabulary file"):
        SentencePieceVocabulary.load(spm, dictionary.with_name("absent.txt"))


def test_state_goes_through_a_weights_only_checkpoint(vocabulary):
    buffer = io.BytesIO()
    torch.save({"task_state": vocabulary.state_dict()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)["task_state"]
    restored = SentencePieceVocabulary.from_state_dict(state)
    restored.require_equal(vocabulary, "target")
    assert restored.encode(TEXTS[2]).tolist() == vocabulary.encode(TEXTS[2]).tolist()


def test_difference_is_told_in_one_line(vocabulary):
    other = SentencePieceVocabulary.train([text.upper() for text in TEXTS], 31, name="dict.txt")
    with pytest.raises(ValueError) as error:
        other.require_equal(vocabulary, "target")
    message = str(error.value)
    assert "the target dictionary does not fit: dict.txt has 31 symbols, vocabulary has 32" in message
    assert "the first that differs is number" in message
    assert "\n" not in message


def test_longer_dictionary_differs_at_its_end(files, vocabulary):
    spm, dictionary = files
    with dictionary.open("a", encoding="utf-8") as file:
        file.write("<mask> 1\n")
    with pytest.raises(ValueError, match="the first that differs is number 32: '<mask>' instead of nothing"):
        SentencePieceVocabulary.load(spm, dictionary).require_equal(vocabulary, "target")


def test_bpe_gives_fairseq_generate_plain_text(vocabulary):
    bpe = FairseqBPE(vocabulary)
    assert bpe.decode(bpe.encode(TEXTS[1])) == TEXTS[1]
    reference = bpe.decode("▁acht <<unk>>")  # fairseq escapes unk in references, so that it never matches
    assert reference != bpe.decode("▁acht <unk>")
    assert bpe.decode("") == ""


@pytest.mark.parametrize("remove_bpe", ["sentencepiece", "letter", "@@ "])
@pytest.mark.parametrize("text", [*TEXTS, "acht"])
def test_text_that_fairseq_has_already_post_processed_is_the_same_text(vocabulary, text, remove_bpe):
    symbols = vocabulary.dictionary.string(vocabulary.encode(text), remove_bpe)
    assert FairseqBPE(vocabulary).decode(symbols) == text
    assert FairseqBPE(vocabulary).decode(text) == text  # a plain string, as of --replace-unk


def test_pieces_without_a_words_beginning_are_joined(vocabulary):
    """As translate.py does; as a string they look like words."""
    inner = [i for i, s in enumerate(vocabulary.dictionary.symbols) if "\u2581" not in s and i > 3][:3]
    found = FairseqBPE(vocabulary).decode(vocabulary.dictionary.string(torch.tensor(inner)))
    assert found == vocabulary.decode(inner) and " " not in found


def test_an_empty_model_is_refused(files):
    spm, dictionary = files
    spm.with_name("empty.model").write_bytes(b"")
    with pytest.raises(ValueError, match="expected a sentencepiece model, found 0 bytes"):
        SentencePieceVocabulary.load(spm.with_name("empty.model"), dictionary)


def test_vocabulary_is_pickled_into_spawned_workers(files):
    spm, dictionary = files
    code = (
        "import pickle; from fairseq_prune.text.sentencepiece import SentencePieceVocabulary;"
        f"v = pickle.loads(pickle.dumps(SentencePieceVocabulary.load({str(spm)!r}, {str(dictionary)!r})));"
        "print(v.decode(v.encode('acht neun')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "acht neun"
