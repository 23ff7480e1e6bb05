import jiwer
import pytest
import sacrebleu

from fairseq_prune.evaluation.transcripts import recognition_scores, translation_scores

REFERENCES = ["I won't go, Mr. Smith!", "The colour is red", "twenty-one birds sing"]
HYPOTHESES = ["i will not go mister smith", "the color was red", "21 bird sings loud"]


def test_rates_after_the_normalizer():
    scores = recognition_scores(REFERENCES, HYPOTHESES, "english")
    assert (scores["WER"]["errors"], scores["WER"]["tokens"]) == (4, 13)
    plain = recognition_scores(REFERENCES, HYPOTHESES, "none")
    assert plain["WER"]["score"] == round(100 * jiwer.wer(REFERENCES, HYPOTHESES), 2)
    assert plain["CER"]["score"] == round(100 * jiwer.cer(REFERENCES, HYPOTHESES), 2)
    for rates in (scores, plain):
        for rate in rates.values():
            assert rate["interval"][0] <= rate["score"] <= rate["interval"][1]


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="3 references, but 2 hypotheses"):
        recognition_scores(REFERENCES, HYPOTHESES[:2], "basic")


def test_translations_are_scored_by_sacrebleu():
    scores = translation_scores(REFERENCES, HYPOTHESES)
    assert scores["BLEU"]["score"] == round(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score, 2)
    assert scores["chrF"]["score"] == round(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score, 2)
    assert "nrefs:1" in scores["BLEU"]["signature"]
    assert scores["chrF"]["interval"][0] < scores["chrF"]["interval"][1]
    assert scores["BLEU"]["interval"][0] <= scores["BLEU"]["score"] <= scores["BLEU"]["interval"][1]
