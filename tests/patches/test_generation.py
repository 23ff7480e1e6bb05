"""Ensembles of models that prune differently, and alignments with frames."""

import torch
from fairseq.sequence_generator import SequenceGenerator
from small_speech_model import make_model, make_task, speech

from fairseq_prune.patches.generation import frames_of

ATTENTION = torch.tensor([[0.1, 0.7, 0.2], [0.0, 0.4, 0.6]])
POSITIONS = torch.tensor([0, 3, 5])


def test_a_token_is_aligned_with_the_frame_before_pruning():
    assert frames_of(ATTENTION, POSITIONS, hard=True) == [(3, 0), (5, 1)]


def test_weights_lie_where_the_frames_were():
    rows = frames_of(ATTENTION, POSITIONS, hard=False)
    assert rows[0] == ["0.100000", "0.000000", "0.000000", "0.700000", "0.000000", "0.200000"]


def generate(models, **options):
    dictionary = make_task().target_dictionary
    generator = SequenceGenerator(models, dictionary, beam_size=3, max_len_b=6, **options)
    net_input = {**speech(8000, 6000), "prev_output_tokens": None}
    return generator.generate(models, {"net_input": net_input})


def test_an_ensemble_averages_probabilities_whatever_each_model_prunes():
    pruned, dense = make_model(token_keep_ratio=0.5), make_model()
    found = generate([pruned, dense])
    assert len(found) == 2 and all(len(hypotheses) == 3 for hypotheses in found)
    best = found[0][0]
    previous = torch.cat([torch.tensor([2]), best["tokens"][:-1]])[None]
    source = {"src_tokens": speech(8000, 6000)["src_tokens"][:1], "src_lengths": torch.tensor([8000])}
    probabilities = [
        model.get_normalized_probs(model(**source, prev_output_tokens=previous), log_probs=False)[0]
        for model in (pruned, dense)
    ]
    mean = torch.stack(probabilities).mean(0).log()
    expected = mean[torch.arange(len(best["tokens"])), best["tokens"]]
    assert torch.allclose(best["positional_scores"], expected, atol=1e-4)


def test_twice_the_same_model_is_that_model():
    model = make_model(token_keep_ratio=0.5)
    once, twice = generate([model]), generate([model, model])
    assert torch.equal(once[0][0]["tokens"], twice[0][0]["tokens"])
