import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_whisper import SPECIALS, small_tokenizer, tokenizer_json

from fairseq_prune.text.byte_level_bpe import END, PAD, START, TIMESTAMPS, UNKNOWN, ByteLevelBPE
from fairseq_prune.text.fairseq_bpe import FairseqBPE

TOKENIZER = small_tokenizer()
LABELLED = TOKENIZER.with_tokens(["[IN:GET_WEATHER", "[SL:DATE"])
PIECES = st.sampled_from(["<|", "endoftext", "|>", "[IN:GET_WEATHER", " ", "the", "é"])
TEXTS = st.text() | st.lists(PIECES).map("".join)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_every_text_comes_back_as_it_was(text):
    for tokenizer in (TOKENIZER, LABELLED):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        [ids] = tokenizer.encode_all([text])
        assert ids == tokenizer.encode(text)
        assert (
            tokenizer.decode(torch.tensor([*tokenizer.prefix("en"), *ids, tokenizer.dictionary.eos()]))
            == text
        )


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_fairseqs_symbols_come_back_too(text):
    symbols = LABELLED.dictionary.string(torch.tensor(LABELLED.encode(text)))
    assert symbols == FairseqBPE(LABELLED).encode(text)
    assert FairseqBPE(LABELLED).decode(symbols) == text


@pytest.mark.parametrize("name", [START, END, PAD])
def test_nobody_can_say_a_special_token(name):
    assert TOKENIZER.special[name] not in TOKENIZER.encode(f"say {name} now")


def test_the_dictionary_is_in_the_order_of_the_ids():
    symbols = TOKENIZER.dictionary
    assert len(symbols) == len(TOKENIZER) == TOKENIZER.tokenizer.get_vocab_size()
    assert [symbols[index] for index in range(len(symbols))] == [
        TOKENIZER.tokenizer.id_to_token(index) for index in range(len(symbols))
    ]
    roles = symbols.bos(), symbols.pad(), symbols.eos(), symbols.unk()
    assert roles == tuple(TOKENIZER.special[name] for name in (START, PAD, END, UNKNOWN))


def test_a_label_is_one_token_and_the_others_keep_their_ids():
    tokens = LABELLED.encode("[IN:GET_WEATHER in the north")
    assert tokens == [len(TOKENIZER), *TOKENIZER.encode(" in the north")]
    assert LABELLED.dictionary.symbols[: len(TOKENIZER)] == TOKENIZER.dictionary.symbols


def test_a_checkpoint_gives_it_back():
    LABELLED.require_equal(ByteLevelBPE.from_state_dict(LABELLED.state_dict()), "target")
    assert ByteLevelBPE(LABELLED.to_json()).to_json() == LABELLED.to_json()


def test_prefixes_of_english_and_multilingual_models():
    names = [TOKENIZER.dictionary[index] for index in TOKENIZER.prefix("de", "translate")]
    assert names == ["<|startoftranscript|>", "<|de|>", "<|translate|>", "<|notimestamps|>"]
    assert [TOKENIZER.dictionary[index] for index in TOKENIZER.prefix()] == [START, "<|notimestamps|>"]
    with pytest.raises(ValueError, match=r"tokenizer.json: has no token <\|xx\|>"):
        TOKENIZER.prefix("xx")


def test_timestamps_are_added_where_the_embedding_has_them():
    full = TOKENIZER.for_rows(len(TOKENIZER) + len(TIMESTAMPS))
    assert full.dictionary.symbols[len(TOKENIZER) :] == TIMESTAMPS
    assert TIMESTAMPS[0] == "<|0.00|>" and TIMESTAMPS[-1] == "<|30.00|>"
    assert full.encode("<|0.00|>") == TOKENIZER.encode("<|0.00|>")
    for rows in (len(TOKENIZER), len(TOKENIZER) + 7):
        assert TOKENIZER.for_rows(rows) is TOKENIZER
    assert full.for_rows(len(full) + len(TIMESTAMPS)) is full


def test_merges_of_either_form_are_read():
    content = json.loads(tokenizer_json())
    content["model"]["merges"] = [
        merge.split(" ") if isinstance(merge, str) else merge for merge in content["model"]["merges"]
    ]
    assert ByteLevelBPE(json.dumps(content)).to_json() == TOKENIZER.to_json()


def test_another_vocabulary_is_told_by_its_first_other_symbol():
    with pytest.raises(ValueError, match=r"target dictionary does not fit: .*instead of '\[IN:GET_WEATHER'"):
        TOKENIZER.require_equal(LABELLED, "target")


def broken(**changes):
    return json.dumps({**json.loads(tokenizer_json()), **changes})


def without(name):
    added = [
        token for token in json.loads(tokenizer_json())["added_tokens"] if token["content"] != f"<|{name}|>"
    ]
    for index, token in enumerate(added):
        token["id"] = len(TOKENIZER) - len(SPECIALS) + index
    return broken(added_tokens=added)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON", "expected a tokenizer.json"),
        ("[]", "expected a tokenizer.json"),
        (
            broken(decoder={"type": "WordPiece"}),
            "expected a byte-level BPE, found BPE with decoder WordPiece",
        ),
        (without("startoflm"), r"has no token <\|startoflm\|>"),
        (broken(added_tokens=[]), r"has no token <\|startoftranscript\|>"),
    ],
)
def test_what_is_no_such_tokenizer_is_refused(tmp_path, text, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        ByteLevelBPE.load(tmp_path)


def test_a_missing_tokenizer_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json: no such tokenizer"):
        ByteLevelBPE.load(tmp_path)
