import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
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


@pytest.mark.parametrize("remove_bpe", ["sentencepiece", "letter", "wordpiece", "@@ ", "subword_nmt", "_EOW"])
@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_text_that_fairseq_has_already_post_processed_is_the_same_text(remove_bpe, text):
    symbols = LABELLED.dictionary.string(torch.tensor(LABELLED.encode(text)), remove_bpe)
    assert FairseqBPE(LABELLED).decode(symbols) == text


def test_symbols_that_were_joined_elsewhere_are_text():
    """A plain string, as of --replace-unk."""
    joined = "".join(LABELLED.encode_pieces("what is the weather"))
    assert FairseqBPE(LABELLED).decode(joined) == "what is the weather"
    assert FairseqBPE(LABELLED).decode("the weather") == "the weather"


def test_words_that_fairseq_adds_to_its_dictionary_are_no_tokens():
    tokenizer = small_tokenizer()
    tokenizer.dictionary.encode_line("overnight", add_if_not_exist=True)
    assert tokenizer.decode("overnight") == "overnight"


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
    for language in ("xx", "french", "auto", "endoftext"):
        with pytest.raises(ValueError, match=f"language '{language}': .* expected one of the codes en, de$"):
            TOKENIZER.prefix(language)


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
        (broken(pre_tokenizer=None), "expected a byte-level BPE, found BPE with pre_tokenizer None"),
        (without("startoflm"), r"has no token <\|startoflm\|>"),
        (broken(model={"type": "WordPiece"}), "expected byte-pair encoding, found WordPiece"),
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


@pytest.fixture
def older_files(tmp_path):
    """vocab.json, merges.txt and added_tokens.json, as of older folders of Whisper."""
    content = json.loads(LABELLED.to_json())
    (tmp_path / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    merges = "".join(f"{merge}\n" for merge in content["model"]["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    return tmp_path


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_the_older_files_of_a_folder_are_the_same_tokenizer(older_files, text):
    found = ByteLevelBPE.load(older_files)
    found.require_equal(LABELLED, "target")
    assert found.special == LABELLED.special
    assert found.encode(text) == LABELLED.encode(text) and found.decode(found.encode(text)) == text


def test_added_tokens_may_stand_in_the_tokenizers_configuration(older_files):
    added = json.loads((older_files / "added_tokens.json").read_text())
    (older_files / "added_tokens.json").unlink()
    listed = {str(index): {"content": token} for token, index in added.items()}
    (older_files / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    ByteLevelBPE.load(older_files).require_equal(LABELLED, "target")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[]", "vocab.json: expected an object of tokens"),
        ("merges.txt", "a b c\n", "merges.txt: expected two parts of a token"),
        ("added_tokens.json", '{"<|x|>": 5000}', r"token '<\|x\|>' has id 5000, expected the next one"),
        ("tokenizer_config.json", "[1]", "tokenizer_config.json: expected an object"),
    ],
)
def test_broken_older_files_are_refused(older_files, name, content, message):
    if name == "tokenizer_config.json":
        (older_files / "added_tokens.json").unlink()
    (older_files / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        ByteLevelBPE.load(older_files)
