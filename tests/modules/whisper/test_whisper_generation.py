import pytest
import torch
from small_whisper import SIZES, clips, huggingface_whisper, our_names, small_tokenizer, small_whisper
from transformers.generation import GenerationMixin

from fairseq_prune.modules.whisper.generation import PromptedEnsemble, WhisperGenerator, suppressed_tokens

FRAMES = 2 * SIZES["max_source_positions"]
TOKENIZER = small_tokenizer()
PREFIX = TOKENIZER.prefix("en")


@pytest.fixture(scope="module")
def pair():
    theirs = huggingface_whisper()
    return theirs, small_whisper(our_names(theirs))


def generate(model, features, lengths, prefix=PREFIX, never=(), first=(), **options):
    """Token lists of the hypotheses of each clip, best first."""
    generator = WhisperGenerator([model], TOKENIZER.dictionary, prefix, never, first, **options)
    sample = {"net_input": {"src_tokens": features, "src_lengths": lengths}}
    return [[found["tokens"].tolist() for found in best] for best in generator.generate([model], sample)]


def generate_there(model, features, prefix=PREFIX, **options):
    """The same of transformers: texts up to their ends."""
    end = TOKENIZER.dictionary.eos()
    found = GenerationMixin.generate(
        model,
        input_features=features.transpose(1, 2),
        decoder_input_ids=torch.tensor([prefix] * len(features)),
        **options,
    )
    texts = [row[len(prefix) :] for row in found.tolist()]
    return [text[: text.index(end) + 1] if end in text else text for text in texts]


def test_greedy_hypotheses_are_those_of_transformers(pair):
    theirs, ours = pair
    features, lengths = clips(FRAMES, FRAMES, FRAMES, FRAMES)
    never, first = suppressed_tokens(TOKENIZER)
    expected = generate_there(
        theirs, features, max_new_tokens=12, suppress_tokens=never, begin_suppress_tokens=first, num_beams=1
    )
    found = generate(ours, features, lengths, never=never, first=first, beam_size=1, max_len_b=12)
    assert len({tuple(text) for text in expected}) > 1
    assert [best[0][:12] for best in found] == expected


def test_beam_search_finds_what_transformers_finds(pair):
    theirs, ours = pair
    features, lengths = clips(FRAMES, FRAMES, FRAMES)
    symbols = TOKENIZER.dictionary
    fairseqs = dict(
        suppress_tokens=[symbols.pad()], begin_suppress_tokens=[symbols.eos()]
    )  # what it never writes
    expected = generate_there(theirs, features, max_new_tokens=30, num_beams=3, **fairseqs)
    found = generate(ours, features, lengths, beam_size=3, max_len_b=30)
    assert [best[0] for best in found] == expected


def test_the_forced_prefix_counts_neither_in_tokens_nor_in_scores(pair):
    _, ours = pair
    features, lengths = clips(50)
    generator = WhisperGenerator([ours], TOKENIZER.dictionary, PREFIX, beam_size=1, max_len_b=8)
    sample = {"net_input": {"src_tokens": features, "src_lengths": lengths}}
    best = generator.generate([ours], sample)[0][0]
    tokens = best["tokens"]
    with torch.no_grad():
        whole = torch.cat([torch.tensor(PREFIX), tokens[:-1]])
        scores = ours(features, lengths, whole[None])[0].log_softmax(-1)[0, len(PREFIX) - 1 :]
    expected = scores.gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(best["positional_scores"], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(best["score"], expected.mean(), rtol=0, atol=1e-4)


def test_a_generator_follows_its_model_to_another_device():
    model = small_whisper()
    ensemble = PromptedEnsemble([model], PREFIX, [5, 6], [7])
    model.to("meta")
    features, lengths = (part.to("meta") for part in clips(FRAMES, FRAMES))
    encoded = ensemble.forward_encoder({"src_tokens": features, "src_lengths": lengths})
    tokens = torch.empty(2, 1, dtype=torch.long, device="meta")
    log_probs, _ = ensemble.forward_decoder(tokens, encoded, [{}])
    assert log_probs.is_meta and log_probs.shape == (2, len(TOKENIZER))


def test_another_language_is_another_prefix(pair):
    _, ours = pair
    features, lengths = clips(50, 50, 50, 50)
    options = dict(beam_size=1, max_len_b=8)
    english = generate(ours, features, lengths, **options)
    assert english != generate(ours, features, lengths, prefix=TOKENIZER.prefix("de", "translate"), **options)


def test_what_is_suppressed_is_never_written(pair):
    _, ours = pair
    features, lengths = clips(50, 50)
    written = {
        token for found in generate(ours, features, lengths, beam_size=3) for text in found for token in text
    }
    never = sorted(written - {TOKENIZER.dictionary.eos()})
    found = generate(ours, features, lengths, never=never, beam_size=3)
    assert not set(never) & {token for best in found for text in best for token in text}


def test_what_is_suppressed_at_the_beginning_may_follow(pair):
    _, ours = pair
    features, lengths = clips(50)
    [[best]] = generate(ours, features, lengths, beam_size=1, max_len_b=8)
    [[other]] = generate(ours, features, lengths, first=best[:1], beam_size=1, max_len_b=8)
    assert other[0] != best[0]


def test_generation_ends_at_the_decoders_last_position(pair):
    _, ours = pair
    features, lengths = clips(50)
    places = SIZES["max_target_positions"] - len(PREFIX)
    [[text]] = generate(ours, features, lengths, beam_size=1, max_len_b=500, min_len=places)
    assert len(text) == places + 1  # with the end, which no position is needed for


def test_signs_of_no_speech_and_special_tokens_are_suppressed():
    never, first = suppressed_tokens(TOKENIZER)
    names = {TOKENIZER.dictionary[index] for index in never}
    assert {"(", "[", "<|startoftranscript|>", "<|translate|>", "<|nospeech|>", "Ġ-"} <= names
    assert not names & {"-", "<|endoftext|>", "<|notimestamps|>", "a"}
    assert sorted(TOKENIZER.dictionary[index] for index in first) == ["<|endoftext|>", "Ġ"]
