from types import SimpleNamespace

import pytest
import torch
from small_whisper import small_tokenizer
from speaking import END, FIRST, TOKENIZER
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from fairseq_prune.inference.whisper.rules import (
    TokenRules,
    forced_prefix,
    has_timestamps,
    languages_of,
    no_speech_token,
    place_of_start,
)
from fairseq_prune.text.byte_level_bpe import NO_TIMESTAMPS


def published():
    config = SimpleNamespace(
        no_timestamps_token_id=TOKENIZER.special[NO_TIMESTAMPS],
        eos_token_id=END,
        bos_token_id=END,
        max_initial_timestamp_index=50,
        is_multilingual=True,
        forced_decoder_ids=None,
    )
    return WhisperTimeStampLogitsProcessor(config, begin_index=1, _detect_timestamp_from_logprob=True)


@pytest.mark.parametrize("seed", range(6))
def test_timestamps_follow_the_published_rules(seed):
    torch.manual_seed(seed)
    rules, reference = TokenRules(TOKENIZER, timestamps=True), published()
    text, prefix = torch.zeros(8, 0, dtype=torch.long), torch.full((8, 1), TOKENIZER.dictionary.bos())
    for _ in range(25):
        logits = torch.randn(8, len(TOKENIZER)) * 2
        logits[:, FIRST:] -= torch.rand(8, 1) * 12  # timestamps are likelier than a text in some rows alone
        expected = reference(torch.cat([prefix, text], dim=1), logits.clone())
        if text.size(1) == 0:
            expected[:, : TOKENIZER.special[NO_TIMESTAMPS] + 1] = -torch.inf
        found = rules.apply(logits.clone(), text)
        assert torch.equal(found.isinf(), expected.isinf())
        text = torch.cat([text, found.softmax(1).multinomial(1)], dim=1)
    assert (text >= FIRST).any() and (text < FIRST).any()


def test_suppressed_tokens_have_no_chance():
    rules = TokenRules(TOKENIZER, never=[5, 7], never_first=[9])
    first = rules.apply(torch.zeros(1, len(TOKENIZER)), torch.zeros(1, 0, dtype=torch.long))
    later = rules.apply(torch.zeros(1, len(TOKENIZER)), torch.tensor([[9]]))
    assert first[0].isinf().nonzero()[:, 0].tolist() == [5, 7, 9]
    assert later[0].isinf().nonzero()[:, 0].tolist() == [5, 7]


def test_the_prefix_has_prompt_language_task_and_no_timestamps():
    names = [
        TOKENIZER.dictionary[index] for index in forced_prefix(TOKENIZER, "de", "translate", False, [4, 5])
    ]
    assert names[0] == "<|startofprev|>"
    assert names[3:] == ["<|startoftranscript|>", "<|de|>", "<|translate|>", NO_TIMESTAMPS]
    assert place_of_start(TOKENIZER, forced_prefix(TOKENIZER, "de", prompt=[4, 5])) == 3
    assert len(forced_prefix(TOKENIZER)) == 1


def test_what_a_tokenizer_knows():
    assert set(languages_of(TOKENIZER)) == {"en", "de"}
    assert has_timestamps(TOKENIZER) and not has_timestamps(small_tokenizer())
    assert no_speech_token(TOKENIZER) == TOKENIZER.special["<|nospeech|>"]
