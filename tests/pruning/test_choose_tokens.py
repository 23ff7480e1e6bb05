import pytest
import torch

from fairseq_prune.pruning.vocabulary import (
    Subwords,
    VocabularyCut,
    bpe_parts,
    choose_tokens,
    coverage,
    prune_merges,
)

MERGES = [("a", "b"), ("b", "c"), ("ab", "c"), ("c", "d"), ("abc", "d")]
TOKENS = ["<s>", "a", "b", "c", "d", "ab", "bc", "abc", "cd", "abcd"]


def rank(left, right):
    return MERGES.index((left, right)) if (left, right) in MERGES else None


SUBWORDS = Subwords(TOKENS, frozenset({0, 1, 2, 3, 4}), lambda token: bpe_parts(token, rank))


def kept_of(*tokens, min_count=1):
    counts = {TOKENS.index(token): tokens.count(token) for token in tokens}
    return [TOKENS[index] for index in choose_tokens(SUBWORDS, counts, min_count).kept]


def test_parts_are_those_that_merging_passes_through():
    """(a, b) comes before (b, c): bc and cd never arise on the way to abcd."""
    assert bpe_parts("abcd", rank) == {"a", "b", "c", "d", "ab", "abc", "abcd"}


def test_what_builds_a_kept_token_stays_with_it():
    assert kept_of("abcd") == ["<s>", "a", "b", "c", "d", "ab", "abc", "abcd"]


def test_tokens_below_the_minimum_count_go():
    assert kept_of("abcd", "cd", "cd", min_count=2) == ["<s>", "a", "b", "c", "d", "cd"]


def test_characters_of_rare_tokens_stay_where_they_are_not_required():
    counts = {TOKENS.index("abcd"): 1, TOKENS.index("bc"): 2}
    subwords = Subwords(TOKENS, frozenset({0}), set)
    assert [TOKENS[i] for i in choose_tokens(subwords, counts, 2).kept] == ["<s>", "a", "b", "c", "d", "bc"]


def test_only_merges_of_kept_tokens_remain_and_in_their_order():
    assert prune_merges(MERGES, ["a", "b", "c", "d", "ab", "abc", "cd"]) == [
        ("a", "b"),
        ("ab", "c"),
        ("c", "d"),
    ]


def test_rows_are_the_kept_ones_then_means_of_the_labels_pieces_then_extra_ones():
    table = torch.randn(12, 3)
    cut = VocabularyCut(10, [0, 2, 5], {"IN:x": [1, 2], "SL:y": [7]}, keep_extra=True)
    expected = torch.cat([table[[0, 2, 5]], table[1:3].mean(0, keepdim=True), table[[7]], table[10:]])
    torch.testing.assert_close(cut.rows(table), expected)
    assert len(cut) == 5 and len(cut.rows(table)) == 7


def test_labels_of_a_half_precision_table_are_means_in_single_precision():
    table = torch.tensor(
        [[60000.0], [60000.0], [24000.0]], dtype=torch.float16
    )  # whose sum is more than float16 holds
    assert VocabularyCut(3, [0], {"label": [0, 1, 2]}).rows(table).tolist() == [[60000.0], [48000.0]]


def test_a_table_with_fewer_rows_than_tokens_is_refused():
    with pytest.raises(ValueError, match="do not fit: 9 embedding rows, 10 tokens"):
        VocabularyCut(10, [0]).rows(torch.zeros(9, 2))


@pytest.mark.parametrize("counts", [{}, {3: 0}])
def test_a_corpus_without_text_is_refused(counts):
    with pytest.raises(ValueError, match="the corpus has no text"):
        choose_tokens(SUBWORDS, counts)


@pytest.mark.parametrize("label, pieces, reason", [("ab", [1], "is a token already"), ("x", [], "is empty")])
def test_a_label_that_cannot_be_added_is_refused(label, pieces, reason):
    with pytest.raises(ValueError, match=f"'{label}': {reason}"):
        choose_tokens(SUBWORDS, {5: 1}, labels={label: pieces})


def test_coverage_counts_tokens_and_whole_texts():
    found = coverage([[1, 2], [2, 3, 3, 9], [2]], VocabularyCut(10, [1, 2, 3]))
    assert found == (6 / 7, 2 / 3)


def test_old_ids_are_renumbered_and_those_gone_left_out():
    assert VocabularyCut(10, [1, 4, 7]).renumber([7, 2, 1]) == [2, 0]
