"""Which tensors of a checkpoint are rows of tokens, and the checkpoint after a cut of its vocabulary."""

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional, Union

import torch

from fairseq_prune.checkpoints.deltalm import PUBLISHED_EXTRA_ROWS
from fairseq_prune.cuts.base import without_training
from fairseq_prune.modules.deltalm.model import vocabulary_checksum
from fairseq_prune.pruning.vocabulary import VocabularyCut, choose_tokens
from fairseq_prune.text.byte_level_bpe_cutting import CuttableBPE
from fairseq_prune.text.sentencepiece_cutting import CuttableSentencePiece

AnyVocabulary = Union[CuttableBPE, CuttableSentencePiece]

PUBLISHED_TABLES = ("src_embedding.embed_tokens.weight", "tgt_embedding.embed_tokens.weight")
OF_A_SIDE = ("embed_tokens.weight", "output_projection.weight")
CTC_HEAD = ("encoder.ctc_head.weight", "encoder.ctc_head.bias")


def vocabulary_in(checkpoint: Mapping[str, Any], path: str) -> Optional[AnyVocabulary]:
    """The vocabulary of what a checkpoint of ours writes, from its task state; None where it holds none."""
    state = checkpoint.get("task_state") or {}
    if "tokenizer" in state:
        return CuttableBPE(state["tokenizer"], f"{path} (tokenizer)")
    if "vocabularies" in state:
        return _stored(state["vocabularies"]["target"], f"{path} (target vocabulary)")
    return None


def plan_cut(
    vocabulary: AnyVocabulary,
    texts: Sequence[str],
    min_count: int = 1,
    labels: Sequence[str] = (),
    keep_timestamps: bool = False,
    keep_extra: bool = False,
    forms: Callable[[str], Sequence[str]] = lambda text: [text],
    always: Sequence[str] = (),
) -> VocabularyCut:
    """What to keep of a vocabulary for texts.

    Args:
        texts: the corpus.
        min_count: tokens that it uses less often go.
        labels: new tokens, which start as the mean of the pieces that they have been so far. Those that are tokens
            already stay.
        keep_timestamps: of Whisper.
        keep_extra: keep embedding rows that belong to no token, such as DeltaLM's sentinels.
        forms: of a text, always as many; a token stays if the texts in one of their forms use it often enough.
        always: texts whose tokens stay, however often the corpus uses them.

    Raises:
        ValueError: the texts are empty, or a label cannot be a token.
    """
    known = set(vocabulary.symbols)
    labels = [label for label in dict.fromkeys(labels) if label not in known]
    pieces = dict(zip(labels, vocabulary.encode(labels)))
    labelled = vocabulary.with_labels(labels) if labels else vocabulary
    counts = Counter()
    for form in zip(*map(forms, texts)):
        counts |= Counter(index for ids in labelled.encode(form) for index in ids if index < len(vocabulary))
    if counts:  # or else the corpus has no text
        counts |= Counter({index: min_count for ids in vocabulary.encode(always) for index in ids})
    options = {"keep_timestamps": keep_timestamps} if isinstance(vocabulary, CuttableBPE) else {}
    return choose_tokens(vocabulary.subwords(**options), counts, min_count, pieces, keep_extra)


def cut_checkpoint(
    checkpoint: Mapping[str, Any], vocabulary: AnyVocabulary, cut: VocabularyCut, path: str
) -> dict[str, Any]:
    """The checkpoint with the smaller vocabulary: a published DeltaLM, or one of our models.

    What belongs to a training that cannot go on (optimizer, average of weights) is left out.

    Args:
        checkpoint: as `load_checkpoint_file` gives it; left as it is.
        vocabulary: of the embedding rows, before the cut.
        cut: what to keep of it.
        path: of the checkpoint, for errors.

    Raises:
        ValueError: the checkpoint has no table of this vocabulary.
    """
    small = vocabulary.cut(cut)
    if "weights" in checkpoint:
        new = dict(checkpoint)
        tables = [name for name in PUBLISHED_TABLES if name in checkpoint["weights"]]
        new["weights"] = _cut_tables(checkpoint["weights"], tables, cut, path, PUBLISHED_EXTRA_ROWS)
        return new
    if "model" not in checkpoint:
        raise ValueError(f"{path}: expected 'weights' (DeltaLM as published) or 'model' (fairseq)")
    new = without_training(checkpoint)
    weights = new["model"]
    if isinstance(vocabulary, CuttableBPE):
        tables, stamps = [f"decoder.{name}" for name in OF_A_SIDE], []
    else:
        stamp = vocabulary_checksum(vocabulary.dictionary())
        stamps = [
            name
            for name, value in weights.items()
            if name.endswith("vocabulary_version") and int(value) == stamp
        ]
        sides = [name[: -len("vocabulary_version")] for name in stamps]
        tables = [side + name for side in sides for name in OF_A_SIDE]
    if vocabulary_in(checkpoint, path) is not None:
        new["task_state"] = _cut_state(checkpoint["task_state"], vocabulary, small)
        if _ctc_is_cut(checkpoint["task_state"], vocabulary):
            tables += CTC_HEAD
    new["model"] = _cut_tables(weights, [name for name in tables if name in weights], cut, path)
    for name in stamps:
        new["model"][name] = torch.tensor(vocabulary_checksum(small.dictionary()))
    return new


def _cut_tables(weights, names, cut, path, extra=0):
    """The weights with smaller tables, which have up to `extra` rows after those of the vocabulary.

    What was one tensor under several names stays one.
    """
    if not names:
        raise ValueError(f"{path}: weights and tokenizer do not fit: no embedding is of this vocabulary")
    new, done = dict(weights), {}
    for name in names:
        table = weights[name]
        if not cut.size <= len(table) <= cut.size + extra:
            raise ValueError(
                f"{path}: weights and tokenizer do not fit: {name} has {len(table)} rows, the vocabulary {cut.size}"
                f" tokens{f' (and up to {extra} extra rows)' if extra else ''}"
            )
        key = table.data_ptr(), table.shape
        if key not in done:
            done[key] = cut.rows(table)
        new[name] = done[key]
    return new


def _cut_state(state, vocabulary, small):
    """The task state with the smaller vocabulary, wherever it holds this one."""
    if isinstance(vocabulary, CuttableBPE):
        return {**state, "tokenizer": small.to_json()}
    stored = {
        "symbols": "\n".join(small.symbols),
        "sentencepiece": base64.b64encode(small.model).decode("ascii"),
    }
    return {
        **state,
        "vocabularies": {
            name: stored if _same(other, vocabulary) else other
            for name, other in state["vocabularies"].items()
        },
    }


def _ctc_is_cut(state, vocabulary):
    name = {"source": "ctc", "target": "target"}.get(state.get("ctc_text"))
    return name is not None and _same(state["vocabularies"][name], vocabulary)


def _same(stored, vocabulary):
    return stored["symbols"].split("\n") == vocabulary.symbols


def _stored(state, name):
    return CuttableSentencePiece(base64.b64decode(state["sentencepiece"]), state["symbols"].split("\n"), name)
