import pytest
import torch
from small_whisper import SIZES, clips
from speaking import END, TOKENIZER, pipeline, prefixes, theirs
from transformers.generation import GenerationMixin

from fairseq_prune.inference.whisper.generating import Writer
from fairseq_prune.inference.whisper.rules import TokenRules, languages_of, no_speech_token
from fairseq_prune.modules.whisper.generation import WhisperGenerator
from fairseq_prune.text.byte_level_bpe import START

FRAMES = 2 * SIZES["max_source_positions"]
PREFIX = TOKENIZER.prefix("en")
LENGTHS = (FRAMES, 70, 90, 50, 100, 60)


@pytest.fixture(scope="module")
def model():
    return pipeline().model


def writer(model, **rules):
    return Writer(model, TokenRules(TOKENIZER, **rules), END, no_speech_token(TOKENIZER))


def write(model, features, lengths, limit=30, temperature=0.0, samples=1, seed=1, **rules):
    with torch.no_grad():
        encoded = model.encoder(features, lengths)
    generator = torch.Generator().manual_seed(seed)
    prefix = prefixes(*[PREFIX] * len(features))
    return writer(model, **rules).write(encoded, prefix, 0, limit, temperature, samples, generator)


def test_greedy_texts_are_those_of_transformers(model):
    features, lengths = clips(FRAMES, FRAMES, FRAMES, FRAMES, FRAMES, FRAMES)
    found = GenerationMixin.generate(
        theirs(),
        input_features=features.transpose(1, 2),
        decoder_input_ids=torch.tensor([PREFIX] * len(features)),
        max_new_tokens=30,
        num_beams=1,
    )
    rows = [row[len(PREFIX) :] for row in found.tolist()]
    expected = [row[: row.index(END)] if END in row else row for row in rows]
    assert len({len(row) for row in expected}) > 2
    assert [one.tokens for one in write(model, features, lengths)] == expected


def test_greedy_texts_are_those_of_fairseqs_generator(model):
    features, lengths = clips(*LENGTHS)
    never = [TOKENIZER.dictionary.pad()]  # what fairseq never writes
    generator = WhisperGenerator(
        [model], TOKENIZER.dictionary, PREFIX, never, [END], beam_size=1, max_len_b=20
    )
    sample = {"net_input": {"src_tokens": features, "src_lengths": lengths}}
    expected = [best[0]["tokens"].tolist()[:-1] for best in generator.generate([model], sample)]
    found = write(model, features, lengths, limit=20, never=never, never_first=[END])
    assert [one.tokens for one in found] == expected


def test_texts_alone_are_those_of_a_batch(model):
    features, lengths = clips(*LENGTHS)
    together = write(model, features, lengths, timestamps=True)
    for row, one in enumerate(together):
        [alone] = write(model, features[row : row + 1], lengths[row : row + 1], timestamps=True)
        assert alone.tokens == one.tokens
        assert alone.log_prob == pytest.approx(one.log_prob, abs=1e-3)
        assert alone.no_speech_prob == pytest.approx(one.no_speech_prob, abs=1e-5)


def test_log_probabilities_are_those_of_a_pass_over_the_whole_text(model):
    features, lengths = clips(FRAMES)
    [one] = write(model, features, lengths)
    assert one.ended
    tokens = torch.tensor([*one.tokens, END])
    with torch.no_grad():
        logits = model(features, lengths, torch.tensor([[*PREFIX, *one.tokens]]))[0][0]
    expected = logits.log_softmax(-1)[len(PREFIX) - 1 :].gather(1, tokens[:, None]).sum()
    assert one.log_prob == pytest.approx(float(expected), abs=1e-3)
    assert one.avg_log_prob == pytest.approx(float(expected) / len(tokens), abs=1e-3)
    silence = logits[0].softmax(-1)[no_speech_token(TOKENIZER)]
    assert one.no_speech_prob == pytest.approx(float(silence), abs=1e-6)


def test_a_text_that_the_limit_cuts_off_has_no_end(model):
    features, lengths = clips(FRAMES)
    [whole] = write(model, features, lengths)
    [cut] = write(model, features, lengths, limit=len(whole.tokens) - 1)
    assert not cut.ended and cut.tokens == whole.tokens[:-1]


def test_samples_depend_on_the_seed_alone_and_the_best_is_taken(model):
    features, lengths = clips(FRAMES)
    first = write(model, features, lengths, temperature=1.0, samples=4)
    again = write(model, features, lengths, temperature=1.0, samples=4)
    other = write(model, features, lengths, temperature=1.0, samples=4, seed=2)
    assert first == again and first[0].tokens != other[0].tokens
    [greedy] = write(model, features, lengths)
    cold = write(model, features, lengths, temperature=1e-5, samples=4)
    assert cold[0].tokens == greedy.tokens


@pytest.mark.parametrize("timestamps", [False, True])
def test_a_beam_is_no_worse_than_greedy_and_keeps_the_rules(model, timestamps):
    features, lengths = clips(*LENGTHS)
    with torch.no_grad():
        encoded = model.encoder(features, lengths)
    rules = dict(timestamps=timestamps, never=[TOKENIZER.dictionary.pad()], never_first=[END])
    prefix = prefixes(*[PREFIX] * len(features))
    greedy = writer(model, **rules).write(encoded, prefix, 0, 20)
    one = writer(model, **rules).search(encoded, prefix, 0, 20, beam=1)
    assert [found.tokens for found in one] == [found.tokens for found in greedy]
    assert [found.log_prob for found in one] == pytest.approx([found.log_prob for found in greedy], abs=1e-2)
    five = writer(model, **rules).search(encoded, prefix, 0, 20, beam=5)
    assert sum(found.avg_log_prob for found in five) > sum(found.avg_log_prob for found in greedy)


def test_the_likeliest_language(model):
    features, lengths = clips(FRAMES, FRAMES, FRAMES)
    with torch.no_grad():
        encoded = model.encoder(features, lengths)
        logits = model(features, lengths, torch.full((3, 1), TOKENIZER.special[START]))[0][:, 0]
    ids = languages_of(TOKENIZER)
    expected = ["de" if row[ids["de"]] > row[ids["en"]] else "en" for row in logits]
    assert writer(model).languages(encoded, TOKENIZER.special[START], ids) == expected
