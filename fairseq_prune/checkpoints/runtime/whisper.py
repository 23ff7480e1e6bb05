"""Running a Whisper that scripts/export.py --format onnx wrote, with numpy and an engine alone.

text = OnnxWhisper("exported").text(samples)            samples: (samples,) at 16 kHz in [-1, 1]
"""

import math

import numpy as np

from .engines import ONNX_RUNTIME, open_graph
from .folder import DECODER, ENCODER, Runner

TOKENIZER, FILTERS = "tokenizer.json", "mel_filters.npy"
WINDOW, HOP = 400, 160  # samples: 25 and 10 ms
# as in modules/whisper/context.py
SILENCE_BELOW_MAXIMUM, LOWEST_FEATURE, CONVOLVED_SILENCE = 2.0, -1.5, 8


def frames_heard(audio_context: str, frames: int, most: int) -> int:
    """Mel frames that the encoder hears of a clip of ``frames``: those, and the silence that the context adds.

    Args:
        audio_context: "30s", "clip", or "clip+N" with N seconds of silence after the clip.
        most: frames of the whole context.
    """
    if audio_context == "30s":
        return most
    seconds = float(audio_context.partition("+")[2] or 0)
    return min(frames + round(seconds * 16000 / HOP), most)


def thinned(clip: int, silence: int, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which frames are taken of a clip with silence after it: of each ``stride`` frames of silence the middle one.

    Args:
        clip, silence: encoder frames (20 ms) of each.

    Returns:
        (frames,) each: the convolutions' outputs to take, the positions that these stand at, and how many frames each
        stands for.
    """
    first = np.arange(0, silence, stride)
    size = np.minimum(silence - first, stride)
    positions = np.concatenate([np.arange(clip), clip + first + size // 2])
    sizes = np.concatenate([np.ones(clip), size]).astype(np.float32)
    return np.minimum(positions, clip + 1), positions, sizes


def kept(frames: int, keep_ratio: float, at_least: int) -> int:
    """How many of the frames that compete stay after a layer."""
    return min(frames, max(at_least, math.ceil(keep_ratio * frames - 1e-6)))


def encoder_inputs(features: np.ndarray, config: dict) -> dict[str, np.ndarray]:
    """What the encoder's graph takes of a clip: features with silence after them, and what follows from the length.

    Args:
        features: (mel frames, mel bins).
        config: of the export.
    """
    clip, inputs = len(features), {}
    convolved = heard = frames_heard(config["audio_context"], clip, config["mel_frames"])
    entering = (clip + 1) // 2
    silence = (heard + 1) // 2 - entering
    stride = config.get("silence_stride", 1)
    if stride > 1:
        convolved = min(heard, clip + CONVOLVED_SILENCE)
        inputs.update(zip(("source", "positions", "sizes"), thinned(entering, silence, stride)))
        silence = -(-silence // stride)
    fixed = silence if config.get("keeps_silence") else 0
    competing, lengths = entering + silence - fixed, []
    for layer, ratio in enumerate(config.get("keep_ratios", [])):
        if ratio < 1:
            left = kept(competing, ratio, config["keep_at_least"])
            lengths.append([competing, left])
            inputs[f"ranks_{layer}"] = np.arange(left + fixed)
            competing = left
    if lengths:
        inputs["lengths"] = np.array(lengths)
    quiet = max(features.max() - SILENCE_BELOW_MAXIMUM, LOWEST_FEATURE)
    padded = np.pad(features, ((0, convolved - clip), (0, 0)), constant_values=quiet)
    return {"features": padded[None], **inputs}


class OnnxWhisper(Runner):
    """A Whisper in an engine that generates greedily, a clip at a time; arguments as of `folder.Runner`."""

    files = (ENCODER, DECODER, TOKENIZER, FILTERS)

    def __init__(self, folder, threads: int = 0, engine: str = ONNX_RUNTIME):
        super().__init__(folder, threads, engine)
        self.filters = np.load(self.folder / FILTERS)
        self.decoder = open_graph(self.folder / DECODER, engine, threads)
        self._tokenizer = None

    def features(self, waveform: np.ndarray) -> np.ndarray:
        """Log-mel features (mel frames, mel bins) of (samples,), the same as `data.log_mel.log_mel`.

        Raises:
            ValueError: the clip is longer than the model's context.
        """
        longest = self.config["mel_frames"] * HOP
        if len(waveform) > longest:
            raise ValueError(
                f"found {len(waveform) / 16000:.2f} s of audio, expected at most {longest / 16000:.2f} s"
            )
        frames = min((len(waveform) + WINDOW // 2 - 2) // HOP + 1, self.config["mel_frames"])
        length = min(frames * HOP + WINDOW // 2, longest)
        padded = np.pad(np.pad(waveform, (0, length - len(waveform))), WINDOW // 2, mode="reflect")
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: frames * HOP : HOP]
        power = np.abs(np.fft.rfft(windows * window)) ** 2
        energies = np.log10(np.maximum(power @ self.filters, 1e-10))
        return ((np.maximum(energies, energies.max() - 8) + 4) / 4).astype(np.float32)

    def encode(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """What the decoder needs of a clip's features (mel frames, mel bins)."""
        return self.encoder.run(encoder_inputs(np.asarray(features), self.config))

    def start(self) -> dict[str, np.ndarray]:
        """The decoder's cache before the first token."""
        shape = (self.config["decoder_layers"], 1, self.config["heads"], 0, self.config["head_dim"])
        return {"keys": np.zeros(shape, np.float32), "values": np.zeros(shape, np.float32)}

    def step(self, token: int, memory: dict, cache: dict) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits (vocabulary,) of what follows a token, and the cache with it."""
        found = self.decoder.run({"token": np.array([[token]]), **memory, **cache})
        return found["logits"][0], {"keys": found["new_keys"], "values": found["new_values"]}

    def generate(self, features: np.ndarray, max_tokens: int = 200) -> list[int]:
        """Greedy token ids of a clip's features (mel frames, mel bins), without prefix and end."""
        config, memory, cache = self.config, self.encode(features), self.start()
        for token in config["prefix"]:
            logits, cache = self.step(token, memory, cache)
        logits[config["suppressed_first"]] = -np.inf
        text = []
        while True:
            logits[config["suppressed"]] = -np.inf
            token = int(logits.argmax())
            if token == config["end"]:
                return text
            text.append(token)
            if len(text) == min(max_tokens, config["max_tokens"] - len(config["prefix"])):
                return text
            logits, cache = self.step(token, memory, cache)

    def text(self, waveform: np.ndarray, max_tokens: int = 200) -> str:
        """The text of (samples,) at 16 kHz in [-1, 1]; needs the library tokenizers."""
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER))
        return self._tokenizer.decode(self.generate(self.features(waveform), max_tokens))
