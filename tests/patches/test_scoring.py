from fairseq import scoring
from fairseq.data import Dictionary
from fairseq.scoring.bleu import SacrebleuScorer, Scorer

from fairseq_prune.patches import scoring as patch
from fairseq_prune.text.dictionaries import SymbolDictionary

patch.install()


def test_bleu_of_our_tasks_is_of_words_and_of_other_tasks_as_it_was():
    found = scoring.build_scorer("bleu", SymbolDictionary())
    assert isinstance(found, SacrebleuScorer)
    found.add_string("vier kleine rote Katzen", "vier kleine rote Katzen")
    assert found.score() > 99.9
    assert isinstance(scoring.build_scorer("bleu", Dictionary()), Scorer)
