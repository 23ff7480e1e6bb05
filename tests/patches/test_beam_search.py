"""The search among the likeliest tokens finds what fairseq finds among all."""

import pytest
import torch
from fairseq.search import BeamSearch, DiverseBeamSearch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from small_speech_model import dictionary, make_model, make_task, speech
from small_whisper import SIZES, clips, small_tokenizer, small_whisper

from fairseq_prune.modules.whisper.generation import WhisperGenerator
from fairseq_prune.patches import beam_search
from fairseq_prune.patches.beam_search import BLOCK, Shortlist, largest

SEEDS = st.integers(0, 2**32 - 1)


def scores_without_ties(seed, *shape):
    """Whose order is that of chance, and all of whose sums with small whole numbers differ."""
    order = torch.randperm(torch.Size(shape).numel(), generator=torch.Generator().manual_seed(seed))
    return -order.double().view(shape) / order.numel()


@settings(deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 12), st.integers(0, 200), st.integers(0, 700))
def test_the_largest_are_those_of_topk(seed, rows, count, more, masked):
    values = scores_without_ties(seed, rows, count * BLOCK + more)
    values[
        :, torch.randperm(values.size(1), generator=torch.Generator().manual_seed(seed))[:masked]
    ] = -torch.inf
    found, columns = largest(values, count)
    expected = values.topk(count)
    assert torch.equal(found, expected.values)
    finite = found.isfinite()
    assert torch.equal(columns[finite], expected.indices[finite])
    assert all(len(set(row)) == count for row in columns.tolist())


@settings(deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 12))
def test_of_equal_values_as_many_are_found(seed, rows, count):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 3, (rows, count * BLOCK + 5), generator=generator).float()
    found, columns = largest(values, count)
    assert torch.equal(found, values.topk(count).values)
    assert torch.equal(found, values.gather(1, columns))


@settings(deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 5), st.integers(0, 2), st.booleans())
def test_a_step_is_that_of_fairseqs_search(seed, sentences, beam, step, early):
    vocabulary = BLOCK * (2 * beam + 2)
    log_probs = scores_without_ties(seed, sentences, beam, vocabulary)
    log_probs[:, :, 1] = -torch.inf  # padding
    before = torch.arange(beam).double().neg().view(1, beam, 1).expand(sentences, beam, step)
    search = BeamSearch(dictionary(vocabulary - 4, "t"))
    expected = search.step(step, log_probs, before)
    shortlist = Shortlist(4 if early else 0, 2 * beam + (not early))
    few = shortlist.choose(log_probs.flatten(0, 1)).view(sentences, beam, len(shortlist))
    scores, places, beams = search.step(step, few, before)
    assert torch.equal(scores, expected[0])
    assert torch.equal(shortlist.at(places, beams), expected[1])
    assert torch.equal(beams, expected[2])


# -- whole texts


@pytest.fixture
def both_ways(monkeypatch):
    """Call a function without this patch and with it; gives both results, and the sizes of shortlists."""
    monkeypatch.setattr(beam_search, "BLOCK", 2)  # or vocabularies of tests would be too small
    sizes = set()

    class Counted(Shortlist):
        def choose(self, log_probs):
            sizes.add(len(self))
            return super().choose(log_probs)

    def call(function):
        monkeypatch.setattr(beam_search, "Shortlist", Counted)
        with monkeypatch.context() as patch:
            patch.setattr(SequenceGenerator, "_generate", SequenceGenerator._generate.__wrapped__)
            patch.setattr(EnsembleModel, "forward_decoder", EnsembleModel.forward_decoder.__wrapped__)
            plain = function()
        assert not sizes
        return plain, function(), sizes

    return call


def write(models, beam=3, search=None, inputs=(), **options):
    words = make_task().target_dictionary
    options = {"beam_size": beam, "max_len_b": 8, **options}
    generator = SequenceGenerator(models, words, search_strategy=search and search(words), **options)
    net_input = {**speech(8000, 6000, 7000), "prev_output_tokens": None}
    return generator.generate(models, {"net_input": net_input}, **dict(inputs))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for sentence, other in zip(found, expected):
        assert len(sentence) == len(other) > 0
        for hypothesis, same in zip(sentence, other):
            for name in ("tokens", "positional_scores", "score", "attention"):
                assert torch.equal(hypothesis[name], same[name]), name


PREFIX = torch.tensor([[7, 9], [5, 1], [8, 6]])  # 1 is padding
EARLY = [
    {},
    {"beam": 1},
    {"beam": 5},
    {"unk_penalty": -9},
    {"min_len": 5},
    {"max_len_b": 1},
    {"temperature": 2},
]
LATE = [
    {"no_repeat_ngram_size": 1},
    {"tokens_to_suppress": ("t3", "t7")},
    {"inputs": {"prefix_tokens": PREFIX}},
]


@pytest.mark.parametrize("options", EARLY, ids=str)
def test_hypotheses_are_those_of_fairseq(options, both_ways):
    models = [make_model(token_keep_ratio=0.5)]
    plain, found, sizes = both_ways(lambda: write(models, **options))
    assert_same(found, plain)
    assert sizes == {4 + 2 * options.get("beam", 3)}


@pytest.mark.parametrize("options", LATE, ids=list("nsp"))
def test_where_other_tokens_are_masked_the_likeliest_are_found_after_that(options, both_ways):
    models = [make_model()]
    plain, found, sizes = both_ways(lambda: write(models, **options))
    assert_same(found, plain)
    assert sizes == {7}


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_an_ensemble_has_a_shortlist_of_its_means(ratio, both_ways):
    models = [make_model(), make_model(token_keep_ratio=ratio)]
    plain, found, sizes = both_ways(lambda: write(models))
    assert_same(found, plain)
    assert sizes == {10}


def test_other_searches_are_left_as_they_are(both_ways):
    models = [make_model()]
    plain, found, sizes = both_ways(
        lambda: write(models, beam=4, search=lambda words: DiverseBeamSearch(words, 2, 0.5))
    )
    assert_same(found, plain)
    assert not sizes


def test_a_vocabulary_that_is_hardly_more_than_the_candidates_is_left_as_it_is(both_ways):
    plain, found, sizes = both_ways(lambda: write([make_model()], beam=6))
    assert_same(found, plain)
    assert not sizes


def test_a_whisper_whose_end_is_no_first_token(both_ways):
    model, tokenizer = small_whisper(), small_tokenizer()
    features, lengths = clips(*[2 * SIZES["max_source_positions"]] * 2)
    assert tokenizer.dictionary.eos() > 100

    def run():
        generator = WhisperGenerator(
            [model], tokenizer.dictionary, tokenizer.prefix("en"), [5, 6], [7], beam_size=4, max_len_b=8
        )
        return generator.generate([model], {"net_input": {"src_tokens": features, "src_lengths": lengths}})

    plain, found, sizes = both_ways(run)
    assert_same(found, plain)
    assert sizes == {9}


def test_logits_of_others_models_stay_as_they_are():
    class Other:
        def get_normalized_probs(self, decoder_out, log_probs, sample):
            return decoder_out[0].log_softmax(-1)

    logits = torch.randn(3, 1, 50)
    kept = logits.clone()
    found = beam_search._log_softmax_of(Other())((logits, None), True)
    assert torch.equal(found, kept.log_softmax(-1)) and torch.equal(logits, kept)
