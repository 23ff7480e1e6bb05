"""Decoding of CTC log probabilities, greedy and with a language model."""

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_prune.inference.ctc_decoding import beam_search

ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-2\t<unk>\t0
0\t<s>\t-0.3
-0.7\t</s>
-0.5\tAB\t-0.3
-1.5\tAC\t-0.3

\\2-grams:
-0.1\t<s> AB
-2\t<s> AC
-0.1\tAB </s>

\\end\\
"""


@pytest.fixture
def dictionary():
    dictionary = Dictionary()
    for letter in "|ABC":
        dictionary.add_symbol(letter)
    return dictionary


def log_probs(dictionary, path, share=0.6):
    """(1, frames, labels): at each frame ``share`` for the first letter given, the rest for the second."""
    probabilities = torch.full((1, len(path), len(dictionary)), 1e-4)
    for frame, (first, second) in enumerate(path):
        probabilities[0, frame, dictionary.index(second)] = 1 - share
        probabilities[0, frame, dictionary.index(first)] = share
    return probabilities.log()


# the acoustics say AC by a little, the language model AB by a lot; <s> is the blank
PATH = [("A", "A"), ("<s>", "<s>"), ("C", "B"), ("|", "|")]


@pytest.fixture
def arpa(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder", reason="of the extra lm")
    pytest.importorskip("kenlm", reason="of the extra lm")
    path = tmp_path / "bigram.arpa"
    path.write_text(ARPA)
    return path


def test_a_language_model_overrules_the_acoustics(dictionary, arpa):
    found = log_probs(dictionary, PATH)
    assert beam_search(dictionary, str(arpa), weight=0.0)(found, [4]) == ["A C |"]
    assert beam_search(dictionary, str(arpa), weight=2.0)(found, [4]) == ["A B |"]


def test_frames_after_the_end_do_not_count(dictionary, arpa):
    longer = torch.cat([log_probs(dictionary, PATH), log_probs(dictionary, PATH)], dim=1)
    assert beam_search(dictionary, str(arpa), weight=2.0)(longer, [4]) == ["A B |"]


def test_a_lexicon_says_which_words_there_are(dictionary, arpa, tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("AC A C |\nAX A X |\n")
    assert beam_search(dictionary, str(arpa), str(lexicon), weight=2.0)(log_probs(dictionary, PATH), [4]) == [
        "A C |"
    ]
    lexicon.write_text("AC\n")
    with pytest.raises(ValueError, match=r"lexicon.txt, line 1: expected a word and its labels, found 'AC'"):
        beam_search(dictionary, str(arpa), str(lexicon))
    lexicon.write_text("AX A X |\n")
    with pytest.raises(ValueError, match="no word of it can be spelled with the dictionary"):
        beam_search(dictionary, str(arpa), str(lexicon))
    with pytest.raises(ValueError, match="it is no ARPA file; give a lexicon"):
        beam_search(dictionary, str(lexicon))
    lexicon.write_text("AC A C |\n")
    with pytest.raises(ValueError, match=r"lexicon.txt: KenLM cannot read it"):
        beam_search(dictionary, str(lexicon), str(lexicon))
