"""Running recognisers and translators that scripts/export.py --format onnx wrote, with numpy and an engine alone.

text = OnnxRecognizer("exported").text(samples)         samples: (samples,) at 16 kHz in [-1, 1]
text = OnnxTranslator("exported").text(samples)         needs the library sentencepiece, too
"""

import math

import numpy as np

from .engines import ONNX_RUNTIME, open_graph
from .folder import DECODER, ENCODER, Runner

SENTENCEPIECE = "sentencepiece.model"
RECOGNIZER, TRANSLATOR = "ctc_recognizer", "speech_translator"  # what config.json says under "kind"
SAMPLE_RATE = 16_000
SILENCE = 2**-16  # half of the smallest step of 16-bit audio


def frames_of(samples: int, convolutions) -> int:
    """Frames that unpadded convolutions of (kernel, stride) make of so many samples; 0 of too few."""
    for kernel, stride in convolutions:
        samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
    return samples


def frame_plan(lengths, config: dict) -> dict[str, np.ndarray]:
    """What the encoder's graph takes besides waveforms and lengths: how many frames leave the layers that drop some.

    Args:
        lengths: samples of each waveform.
        config: of the export.
    """
    left, counts, plan = [frames_of(length, config["convolutions"]) for length in lengths], [], {}
    for layer, ratio in enumerate(config["keep_ratios"]):
        if ratio < 1:
            # 0.1 * 30 is 3.0000000000000004 in floating point: a count must not grow by rounding
            wanted = [max(config["keep_at_least"], math.ceil(ratio * n - 1e-6)) for n in left]
            left = [min(n, count) for n, count in zip(left, wanted)]
            counts.append(left)
            plan[f"ranks_{layer}"] = np.arange(max(left))
    return {"counts": np.array(counts), **plan} if counts else {}


class HubertRunner(Runner):
    """An export whose encoder hears waveforms; arguments as of `folder.Runner`."""

    def encode(self, waveforms) -> dict[str, np.ndarray]:
        """What the encoder's graph gives, by name, of waveforms [(samples,)], each long enough for a frame."""
        lengths = np.array([len(waveform) for waveform in waveforms])
        source = np.zeros((len(waveforms), lengths.max()), np.float32)
        for row, waveform in zip(source, waveforms):
            row[: len(waveform)] = waveform
        plan = frame_plan(lengths.tolist(), self.config)
        return self.encoder.run({"source": source, "lengths": lengths, **plan})

    def is_silent(self, waveform: np.ndarray) -> bool:
        """Whether (samples,) are too few for a frame, or all the same, as no microphone records them."""
        too_few = not frames_of(len(waveform), self.config["convolutions"])
        return too_few or float(waveform.max() - waveform.min()) < SILENCE


class OnnxRecognizer(HubertRunner):
    """A recogniser with CTC, which takes the likeliest label of each frame."""

    kind = RECOGNIZER

    def log_probs(self, waveforms) -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities (batch, frames, labels), and the valid frames (batch,) of each waveform."""
        found = self.encode(waveforms)
        return found["log_probs"], found["frames"]

    def labels(self, waveform: np.ndarray) -> list[str]:
        """The labels of (samples,), without repetitions, blanks and special symbols."""
        if self.is_silent(waveform):
            return []
        path = self.log_probs([waveform])[0][0].argmax(-1)
        path = path[np.insert(path[1:] != path[:-1], 0, True)]
        return [self.config["labels"][label] for label in path if label >= self.config["special_labels"]]

    def text(self, waveform: np.ndarray) -> str:
        """The text of (samples,) at 16 kHz in [-1, 1]: words of letters; other labels with spaces between."""
        labels, space = self.labels(waveform), self.config["word_end"]
        if space is None:
            return " ".join(labels)
        return " ".join("".join(labels).replace(space, " ").split())


class OnnxTranslator(HubertRunner):
    """A speech translator with beam search, an utterance at a time."""

    kind = TRANSLATOR
    files = (ENCODER, DECODER, SENTENCEPIECE)

    def __init__(self, folder, threads: int = 0, engine: str = ONNX_RUNTIME):
        super().__init__(folder, threads, engine)
        self.decoder = open_graph(self.folder / DECODER, engine, threads)
        self._processor = None

    @property
    def heard(self):
        """Of the training's utterances, in seconds, as `data.speech_pieces.as_heard` takes it; None if not known."""
        heard = self.config["heard"]
        return heard and {name: samples / SAMPLE_RATE for name, samples in heard.items()}

    def memory(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        """Keys and values that the decoder looks at, of (samples,)."""
        return self.encode([waveform])

    def start(self, beams: int = 1) -> dict[str, np.ndarray]:
        """The decoder's cache before the first token."""
        config = self.config
        shape = (config["decoder_layers"], beams, config["heads"], 0, config["head_dim"])
        return {"keys": np.zeros(shape, np.float32), "values": np.zeros(shape, np.float32)}

    def step(self, tokens: np.ndarray, memory: dict, cache: dict) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits (beams, symbols) of what follows the tokens (beams, 1), and the cache with them."""
        found = self.decoder.run({"tokens": tokens, **memory, **cache})
        return found["logits"], {"keys": found["new_keys"], "values": found["new_values"]}

    def generate(
        self, waveform: np.ndarray, beam: int = 5, max_tokens: int = 200, len_penalty: float = 1.0
    ) -> list[int]:
        """Token ids of the best translation of (samples,), with the end; [] of silence.

        Beam search as of fairseq's `SequenceGenerator`: a hypothesis that ends among the ``beam`` best is complete, and
        the search is over when as many are; the best one has the highest log probability by token.

        Args:
            beam: hypotheses that are held.
            max_tokens: longest text, without its end.
            len_penalty: exponent of the length that log probabilities are divided by.
        """
        if self.is_silent(waveform):
            return []
        end, found = self.config["end"], []
        longest = min(max_tokens, self.config["max_tokens"] - 1)
        beam = min(beam, self.config["symbols"] - 1)  # the padding is never chosen
        memory, cache = self.memory(waveform), self.start()
        tokens, total = np.full((1, 1), end), np.zeros(1, np.float32)  # at first all hypotheses are the same
        complete = np.zeros(beam, bool)
        for step in range(longest + 1):
            logits, cache = self.step(tokens[:, -1:], memory, cache)
            log_probs = log_softmax(logits)
            log_probs[:, self.config["pad"]] = -np.inf
            if step == 0:  # a text has a token or more
                log_probs[:, end] = -np.inf
            if step == longest:
                log_probs[:, np.arange(log_probs.shape[1]) != end] = -np.inf
            scores = (log_probs + total[:, None]).ravel()
            best = largest(scores, min(2 * beam, len(scores) - 1))
            rows, chosen = np.divmod(best, log_probs.shape[1])
            ends = (chosen == end) & (scores[best] > -np.inf)
            ends[:beam] &= ~complete[: len(ends)]
            for place in np.flatnonzero(ends[:beam])[: beam - len(found)]:
                text = [*tokens[rows[place], 1:].tolist(), end]
                found.append((float(scores[best[place]]) / (step + 1) ** len_penalty, text))
            if len(found) == beam or step == longest:
                break
            ends[:beam] |= complete[: len(ends)]
            going = np.argsort(ends, kind="stable")[:beam]
            complete, rows, total = ends[going], rows[going], scores[best[going]]
            tokens = np.concatenate([tokens[rows], chosen[going][:, None]], axis=1)
            cache = {name: states[:, rows] for name, states in cache.items()}
        return max(found, key=lambda hypothesis: hypothesis[0])[1]

    def text(self, waveform: np.ndarray, **options) -> str:
        """The translation of (samples,) at 16 kHz in [-1, 1]; ``options`` of `generate`."""
        if self._processor is None:
            from sentencepiece import SentencePieceProcessor

            self._processor = SentencePieceProcessor(model_file=str(self.folder / SENTENCEPIECE))
        pieces = [self.config["pieces"][token] for token in self.generate(waveform, **options)]
        return self._processor.decode([piece for piece in pieces if piece is not None])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(rows, symbols) -> the same shape."""
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices (count,) of the largest ``scores`` (candidates,), in their order."""
    found = np.argpartition(-scores, count - 1)[:count]
    return found[np.argsort(-scores[found], kind="stable")]
