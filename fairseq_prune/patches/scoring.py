"""fairseq-generate scores words of our tasks, whichever flag asks for BLEU.

fairseq's default scorer counts the tokens of the vocabulary, and its flag --sacrebleu changes no score: it only turns
a warning off. BLEU over pieces is higher than BLEU over words, and no other work reports it.
"""

import functools
import logging

from fairseq import scoring
from omegaconf import DictConfig

from fairseq_prune.text.dictionaries import SymbolDictionary

logger = logging.getLogger(__name__)


def install() -> None:
    """Replace how fairseq chooses a scorer; safe to call again."""
    if not hasattr(scoring.build_scorer, "scores_words"):
        scoring.build_scorer = _score_words(scoring.build_scorer)


def _score_words(build_scorer):
    @functools.wraps(build_scorer)
    def build(choice, tgt_dict):
        name = choice._name if isinstance(choice, DictConfig) else choice
        if name == "bleu" and isinstance(tgt_dict, SymbolDictionary):
            logger.info("BLEU is that of words (--scoring sacrebleu), not of the vocabulary's pieces")
            choice = "sacrebleu"
        return build_scorer(choice, tgt_dict)

    build.scores_words = True
    return build
