"""Utterances with their translations as a fairseq dataset."""

from typing import Optional

import torch
from fairseq.data import data_utils

from fairseq_prune.data.augmentation import Augmentation
from fairseq_prune.data.manifest import Utterance
from fairseq_prune.data.utterance_dataset import TokenStream, UtteranceDataset
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary


def pad_waveforms(waveforms: list) -> tuple[torch.Tensor, torch.LongTensor]:
    """Batch float32 waveforms ``(samples,)``: zero-padded ``(batch, samples)`` and lengths ``(batch,)``."""
    waveforms = [torch.as_tensor(waveform) for waveform in waveforms]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths


class SpeechTranslationDataset(UtteranceDataset):
    """Waveforms with target tokens, and possibly transcripts and CTC targets.

    Args:
        utterances: rows of a manifest
        audio_folder: where their relative audio paths start
        target: vocabulary of the translations
        transcript: vocabulary of the transcripts, for a translation loss from text
        ctc: vocabulary of the CTC targets
        ctc_text: ``source`` or ``target``: the text of the CTC targets
        training: whether to shuffle and to augment
        augmentation: how items are made of utterances in training; its seed is that of the order too
    """

    def __init__(
        self,
        utterances: list[Utterance],
        audio_folder,
        target: SentencePieceVocabulary,
        transcript: Optional[SentencePieceVocabulary] = None,
        ctc: Optional[SentencePieceVocabulary] = None,
        ctc_text: str = "source",
        training: bool = False,
        augmentation: Optional[Augmentation] = None,
    ):
        sources = [utterance.src_text for utterance in utterances]
        targets = [utterance.tgt_text for utterance in utterances]
        streams = {"target": TokenStream.of(target, targets, with_eos=True)}
        if transcript is not None:
            streams["transcript"] = TokenStream.of(transcript, sources, with_eos=True)
        if ctc is not None:
            texts = {"source": sources, "target": targets}[ctc_text]
            streams["ctc_target"] = TokenStream.of(ctc, texts, with_eos=False)
        super().__init__(utterances, audio_folder, streams, training, augmentation)

    def collater(self, samples: list[dict]) -> dict:
        """Make a batch; waveforms ``(batch, samples)``, tokens ``(batch, tokens)``."""
        if not samples:
            return {}
        waveforms, lengths = pad_waveforms([sample["waveform"] for sample in samples])
        batch = {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "net_input": {"src_tokens": waveforms, "src_lengths": lengths},
        }
        for name, stream in self.streams.items():
            sequences = [sample[name] for sample in samples]
            batch[name], batch[f"{name}_lengths"] = stream.collate(sequences)
        batch["ntokens"] = int(batch["target_lengths"].sum())
        target = self.streams["target"]
        batch["net_input"]["prev_output_tokens"] = data_utils.collate_tokens(
            [sample["target"] for sample in samples], target.pad, target.eos, move_eos_to_beginning=True
        )
        return batch
