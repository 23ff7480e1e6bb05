import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_whisper import small_tokenizer

from fairseq_prune.text.byte_level_bpe import TIMESTAMPS
from fairseq_prune.text.openai import LANGUAGES, _byte_letters, read_ranks

SPECIAL_ENGLISH = 8 + 99 + 1501
# of OpenAI's source, which Whisper shares with GPT-2
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def ranks():
    """The ordinary tokens of the small tokenizer as bytes, in the order of their ranks."""
    byte = {letter: value for value, letter in enumerate(_byte_letters())}
    tokenizer = small_tokenizer()
    written = [symbol for symbol in tokenizer.dictionary.symbols if symbol not in tokenizer.special]
    return {bytes(byte[letter] for letter in symbol): rank for rank, symbol in enumerate(written)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("openai") / "gpt2.tiktoken"
    path.write_text(
        "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks().items())
    )
    return path


@pytest.fixture(scope="module")
def pair(path):
    """Our tokenizer and tiktoken's, of one file."""
    tiktoken = pytest.importorskip("tiktoken", reason="in the test extra of the current stack")
    theirs = tiktoken.Encoding("small", pat_str=PATTERN, mergeable_ranks=ranks(), special_tokens={})
    return read_ranks(path, len(ranks()) + SPECIAL_ENGLISH), theirs


@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from("the weather's nine  north\n in".split(" "))).map(" ".join))
def test_texts_have_the_tokens_that_tiktoken_gives(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode(text, disallowed_special=())
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("languages", [99, 100])
def test_special_tokens_lie_after_the_ranks_in_the_published_order(path, languages):
    tokens = len(ranks())
    symbols = read_ranks(path, tokens + 8 + languages + 1501).dictionary.symbols
    assert symbols[tokens : tokens + 3] == ["<|endoftext|>", "<|startoftranscript|>", "<|en|>"]
    first = tokens + 2 + languages
    names = "translate transcribe startoflm startofprev nospeech notimestamps".split()
    assert symbols[first : first + 6] == [f"<|{name}|>" for name in names]
    assert symbols[first + 6 :] == TIMESTAMPS


def test_languages_are_those_that_transformers_knows():
    whisper = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    assert list(whisper.LANGUAGES) == LANGUAGES


@pytest.mark.parametrize("text", ["", "not base64 at all\n", "YQ== 0\n", "YQ== 0\nYg== 7\n"])
def test_what_is_no_file_of_ranks_is_refused(tmp_path, text):
    path = tmp_path / "gpt2.tiktoken"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected a token in base64 and its rank on every line"):
        read_ranks(path, 51864)


def test_a_token_that_no_merge_makes_is_refused(tmp_path):
    path = tmp_path / "gpt2.tiktoken"
    tokens = [bytes([byte]) for byte in range(256)] + [b"abc"]
    path.write_text(
        "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    )
    with pytest.raises(ValueError, match=r"token 256, b'abc', is not made of two tokens of lower rank"):
        read_ranks(path, 51864)
