"""Hidden states of the layers of an encoder of HuBERT's kind, as features for other models."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import load_state_dict_strictly
from fairseq_prune.inference.base import usable_device
from fairseq_prune.modules import kernels
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert


class FeatureExtractor:
    """An encoder that gives all its hidden states; it drops no frames for that.

    The state 0 is what enters the first layer of the transformer, with the output of the positional convolution, as in
    transformers; the others are what leaves each layer, before the last norm of pre-norm models.

    Args:
        encoder: in evaluation mode. device: where it is.
    """

    def __init__(self, encoder: TokenPrunedHubert, device: torch.device):
        self.encoder, self.device = encoder, device
        self.states = len(encoder.encoder.layers) + 1

    @classmethod
    def load(cls, source, device: str = "cpu", half: bool = False) -> "FeatureExtractor":
        """Of a HuBERT, wav2vec 2.0, WavLM or compressed encoder: a file, or a folder of transformers.

        Raises:
            FileNotFoundError, ValueError: as `read_hubert`; or the device cannot be used.
        """
        place = usable_device(device)
        if half and place.type == "cpu":
            raise ValueError("float16 needs a GPU, found device cpu")
        checkpoint = read_hubert(source)
        encoder = build_encoder(checkpoint.architecture).eval()
        load_state_dict_strictly(encoder, checkpoint.state_dict, source)
        if place.type == "cpu":
            kernels.choose()
        encoder.to(place)
        return cls(encoder.half() if half else encoder, place)

    def check_layers(self, layers: Optional[Sequence[int]], name: str = "layers") -> list[int]:
        """The layers, all of them for None; ValueError if there is no such one."""
        found = list(range(self.states)) if layers is None else list(layers)
        if not all(0 <= layer < self.states for layer in found):
            raise ValueError(f"{name}: found {found}, expected numbers from 0 to {self.states - 1}")
        return found

    @torch.inference_mode()
    def features(self, waveforms: Sequence[Tensor], layers: Optional[Sequence[int]] = None) -> list[Tensor]:
        """Of waveforms (samples,) at 16 kHz, as one batch: (layers, frames, dim) each, on the CPU."""
        chosen = self.check_layers(layers)
        lengths = [len(waveform) for waveform in waveforms]
        source = pad_sequence(list(waveforms), batch_first=True).to(self.device)
        with self.encoder.all_kept():
            states, padding_mask = self.encoder.layer_outputs(source, lengths)
        found = torch.stack([states[layer] for layer in chosen], dim=1).float().cpu()
        if padding_mask is None:
            return list(found)
        return [rows[:, : int((~padding).sum())] for rows, padding in zip(found, padding_mask)]
