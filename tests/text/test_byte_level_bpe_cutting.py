import json
from collections import Counter

import pytest
from bpe_tokenizer_file import LABELS, bpe_tokenizer_json
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fairseq_prune.pruning.vocabulary import choose_tokens
from fairseq_prune.text.byte_level_bpe_cutting import CuttableBPE

CORPUS = ["wake me up at nine", "play the wings of the evening", "nineteen windows are open"]
VOCABULARY = CuttableBPE(bpe_tokenizer_json())


def cut_to(texts, vocabulary=VOCABULARY, min_count=1, labels=(), **options):
    pieces = dict(zip(labels, vocabulary.encode(labels)))
    counts = Counter(
        i for ids in vocabulary.with_labels(labels).encode(texts) for i in ids if i < len(vocabulary)
    )
    cut = choose_tokens(vocabulary.subwords(**options), counts, min_count, pieces)
    return cut, vocabulary.cut(cut)


CUT, SMALL = cut_to(CORPUS, labels=LABELS)
WORDS = st.lists(st.sampled_from(" ".join(CORPUS).split() + ["nin", "win", "eve", "pen"]), max_size=6)


def test_the_cut_shrinks_the_vocabulary():
    assert 256 < len(SMALL) < len(VOCABULARY) - 50


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back_as_it_was(text):
    assert SMALL.processor.decode(SMALL.encode([text])[0], skip_special_tokens=False) == text


@settings(max_examples=200, deadline=None)
@given(WORDS.map(" ".join))
def test_a_text_whose_tokens_all_stay_keeps_its_tokens(text):
    [dense], [small] = VOCABULARY.encode([text]), SMALL.encode([text])
    if set(dense) <= set(CUT.kept):
        assert small == CUT.renumber(dense)
    assert max(small, default=0) < len(SMALL)


@pytest.mark.parametrize("min_count", [1, 2])
def test_the_corpus_is_encoded_and_as_before_if_all_its_tokens_stay(min_count):
    cut, small = cut_to(CORPUS, min_count=min_count)
    for text, dense, ids in zip(CORPUS, VOCABULARY.encode(CORPUS), small.encode(CORPUS)):
        assert small.decode(ids) == text
        assert min_count > 1 or ids == cut.renumber(dense)


def test_special_tokens_and_labels_are_single_tokens_with_their_new_ids():
    ids = {token: index for index, token in enumerate(SMALL.symbols)}
    for token in ("<|startoftranscript|>", "<|endoftext|>", "<|en|>"):
        assert ids[token] < len(CUT.kept)
    assert [ids[label] for label in LABELS] == [len(CUT.kept), len(CUT.kept) + 1]
    assert SMALL.encode([f"open{LABELS[0]} nine"])[0] == [
        *SMALL.encode(["open"])[0],
        ids[LABELS[0]],
        *SMALL.encode([" nine"])[0],
    ]


def test_the_template_of_special_tokens_has_the_new_ids():
    processor = Tokenizer.from_str(SMALL.to_json())
    found = processor.encode("nine")
    assert found.tokens[0] == "<|startoftranscript|>" and found.tokens[-1] == "<|endoftext|>"


def test_timestamps_go_unless_they_are_asked_for():
    def timestamps(vocabulary):
        return sum(symbol.startswith(("<|0.", "<|1.")) for symbol in vocabulary.symbols)

    assert timestamps(VOCABULARY) == 2 and timestamps(SMALL) == 0
    assert timestamps(cut_to(CORPUS, keep_timestamps=True)[1]) == 2


def test_a_tokenizer_that_was_cut_can_be_cut_again_and_keeps_its_labels():
    _, again = cut_to(CORPUS[:1], SMALL)
    assert len(again) < len(SMALL)
    assert [symbol for symbol in again.symbols if symbol in LABELS] == LABELS
    assert again.encode(CORPUS[:1]) and again.decode(again.encode([CORPUS[0]])[0]) == CORPUS[0]


def test_files_come_back_as_they_were_written(tmp_path):
    SMALL.save(tmp_path)
    again = CuttableBPE((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert (again.symbols, again.to_json()) == (SMALL.symbols, SMALL.to_json())


def gap(content):
    content["added_tokens"][-1]["id"] += 1
    del content["model"]["vocab"]["!"]


@pytest.mark.parametrize(
    "edit, reason",
    [
        (gap, "expected"),
        (lambda content: content["model"].update(type="WordPiece"), "byte-pair encoding"),
        (lambda content: content["model"].update(end_of_word_suffix="</w>"), "without prefixes"),
    ],
)
def test_another_tokenizer_is_refused_by_name(edit, reason):
    content = json.loads(bpe_tokenizer_json())
    edit(content)
    with pytest.raises(ValueError, match=f"mine.json: .*{reason}"):
        CuttableBPE(json.dumps(content), "mine.json")
