"""Utterances with what they mean, as log-mel spectrograms and tokens of Whisper."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_prune.data.augmentation import Augmentation
from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.data.manifest import Utterance
from fairseq_prune.data.utterance_dataset import TokenStream, UtteranceDataset
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE


def collate_features(features: Sequence[Tensor]) -> dict[str, Tensor]:
    """Batch log-mel spectrograms (frames, mels): zero-padded (batch, frames, mels) and their lengths (batch,)."""
    lengths = torch.tensor([len(clip) for clip in features])
    return {"src_tokens": pad_sequence(list(features), batch_first=True), "src_lengths": lengths}


class SpokenLanguageDataset(UtteranceDataset):
    """Spectrograms with target tokens that follow a forced prefix.

    The decoder's input begins with ``prefix``; the places of the
    target where it only repeats the prefix are padding, on which no loss is computed.

    Args:
        utterances: rows of a manifest
        audio_folder: where their relative audio paths start
        tokenizer: of the targets
        prefix: ids that the decoder's input begins with
        mel_bins: of the spectrograms, 80 or 128
        training: whether to shuffle and to augment
        augmentation: speeds and levels of training items
    """

    def __init__(
        self,
        utterances: list[Utterance],
        audio_folder,
        tokenizer: ByteLevelBPE,
        prefix: Sequence[int],
        mel_bins: int = 80,
        training: bool = False,
        augmentation: Optional[Augmentation] = None,
    ):
        targets = [utterance.tgt_text for utterance in utterances]
        streams = {"target": TokenStream.of(tokenizer, targets, with_eos=True)}
        super().__init__(utterances, audio_folder, streams, training, augmentation)
        self.prefix, self.mel_bins = torch.tensor(prefix), mel_bins

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        # here and not in the batch: workers share the time, and the published floor is that of a clip
        item["features"] = log_mel(torch.from_numpy(item.pop("waveform")), self.mel_bins)
        return item

    def collater(self, samples: list[dict]) -> dict:
        """Make a batch; spectrograms ``(batch, frames, mels)``, tokens ``(batch, tokens)``."""
        if not samples:
            return {}
        stream, forced = self.streams["target"], len(self.prefix) - 1
        unscored = torch.full((forced,), stream.pad)
        target, lengths = stream.collate([torch.cat([unscored, sample["target"]]) for sample in samples])
        inputs, _ = stream.collate([torch.cat([self.prefix, sample["target"][:-1]]) for sample in samples])
        lengths = lengths - forced
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(lengths.sum()),
            "net_input": {
                **collate_features([sample["features"] for sample in samples]),
                "prev_output_tokens": inputs,
            },
            "target": target,
            "target_lengths": lengths,
        }
