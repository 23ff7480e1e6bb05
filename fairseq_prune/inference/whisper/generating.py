"""Texts of encoded speech: greedy or sampled in a loop of its own, beams with fairseq's generator."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

from fairseq_prune.inference.whisper.rules import TokenRules

COMPACT_AT = 0.75  # finished texts are dropped once no more than this share of a batch goes on
LOOKS_ON_GPU = 8  # tokens from one look at what has ended to the next, for which the host waits


@dataclass
class Generated:
    """A text of a clip.

    tokens: ids without prefix and end. ended: False where the limit cut it off. log_prob: the sum over the tokens and
    the end. no_speech_prob: probability that nobody speaks.
    """

    tokens: list[int] = field(default_factory=list)
    ended: bool = True
    log_prob: float = 0.0
    no_speech_prob: float = 0.0

    @property
    def avg_log_prob(self) -> float:
        """Of a token, the end counted as one."""
        return self.log_prob / (len(self.tokens) + 1)


class Writer:
    """Writes with a decoder under rules.

    Args:
        model: a Whisper, in evaluation mode.
        rules: of the tokens.
        end: id of the end of a text.
        no_speech: id of the token for no speech, or -1.
    """

    def __init__(self, model, rules: TokenRules, end: int, no_speech: int = -1):
        self.model, self.rules, self.end, self.no_speech = model, rules, end, no_speech

    @torch.inference_mode()
    def write(
        self,
        encoder_out: dict[str, list[Any]],
        prefix: Tensor,
        start: int,
        max_tokens: int,
        temperature: float = 0.0,
        samples: int = 1,
        generator: Optional[torch.Generator] = None,
    ) -> list[Generated]:
        """The likeliest text by greedy search, or the best of some samples.

        Args:
            encoder_out: of the encoder.
            prefix: (batch, tokens), read in one step.
            start: the place of <|startoftranscript|> in it.
            max_tokens: longest text.
            temperature: logits are divided by it before a token is drawn; 0: the likeliest token.
            samples: texts to draw for each clip; the one with the highest mean log probability is returned.
            generator: of random numbers.
        """
        decoder, batch = self.model.decoder, len(prefix)
        rows = torch.arange(batch, device=prefix.device).repeat_interleave(samples)
        if samples > 1:
            encoder_out = self.model.encoder.reorder_encoder_out(encoder_out, rows)
        state: dict[str, Any] = {}
        features, _ = decoder(prefix[rows], encoder_out, state, features_only=True)
        silence = self._no_speech(decoder.output_layer(features[::samples, start]))
        logits = decoder.output_layer(features[:, -1]).float()
        text = torch.full((len(rows), max_tokens), self.end, dtype=torch.long, device=prefix.device)
        sums, going = logits.new_zeros(len(rows)), torch.ones_like(rows, dtype=torch.bool)
        active = torch.arange(
            len(rows), device=prefix.device
        )  # the rows of the batch that the decoder still has
        every = LOOKS_ON_GPU if prefix.is_cuda else 1
        for place in range(max_tokens):
            so_far = text[active]
            logits = self.rules.apply(logits, so_far[:, :place])
            token = _choose(logits, temperature, generator)
            gain = logits.log_softmax(1).gather(1, token[:, None])[:, 0]
            token = token.masked_fill(~going, self.end)
            sums[active] += gain.masked_fill(~going, 0)
            text[active, place] = token
            going &= token != self.end
            if place + 1 == max_tokens:
                break
            if place % every == every - 1:
                left = int(going.sum())
                if left == 0:
                    break
                if samples == 1 and left <= COMPACT_AT * len(going):
                    stay = going.nonzero()[:, 0]
                    decoder.reorder_incremental_state_scripting(state, stay)
                    active, going, token = active[stay], going[stay], token[stay]
            states, state["cache"] = decoder.decode(token[:, None], state["cache"])
            logits = decoder.output_layer(decoder.layer_norm(states[-1][:, -1])).float()
        found = [
            Generated(*self._up_to_end(tokens), log_prob, silence[row // samples])
            for row, (tokens, log_prob) in enumerate(zip(text.tolist(), sums.tolist()))
        ]
        groups = [found[first : first + samples] for first in range(0, len(found), samples)]
        return [max(group, key=_score) for group in groups]

    @torch.inference_mode()
    def search(
        self,
        encoder_out: dict[str, list[Any]],
        prefix: Tensor,
        start: int,
        max_tokens: int,
        beam: int,
    ) -> list[Generated]:
        """The best text of a beam search of fairseq; arguments as of `write`, with the same prefix in every row."""
        decoder = self.model.decoder
        features, _ = decoder(prefix[:, : start + 1], encoder_out, features_only=True)
        silence = self._no_speech(decoder.output_layer(features[:, -1]))
        ensemble = _Encoded([self.model], encoder_out, prefix[0].tolist(), self.rules, max_tokens)
        searching = _Search(ensemble, decoder.dictionary, beam_size=beam, max_len_a=0, max_len_b=max_tokens)
        searching.first_token = int(prefix[0, -1])
        places = prefix.new_zeros(len(prefix), 1)  # fairseq asks its source for nothing but its size
        sample = {"net_input": {"src_tokens": places, "src_lengths": places.new_ones(len(places))}}
        found = []
        for row, hypotheses in enumerate(searching.generate([self.model], sample)):
            tokens, scores = hypotheses[0]["tokens"].tolist(), hypotheses[0]["positional_scores"]
            ended = len(tokens) <= max_tokens  # or else fairseq has added an end
            log_prob = float(scores.sum() if ended else scores[:-1].sum())
            found.append(Generated(tokens[:-1], ended, log_prob, silence[row]))
        return found

    @torch.inference_mode()
    def languages(self, encoder_out: dict[str, list[Any]], start: int, among: dict[str, int]) -> list[str]:
        """The likeliest language of each clip.

        Args:
            start: id of <|startoftranscript|>.
            among: ids by language.
        """
        x = encoder_out["encoder_out"][0]
        tokens = torch.full((len(x), 1), start, dtype=torch.long, device=x.device)
        logits, _ = self.model.decoder(tokens, encoder_out)
        names, ids = list(among), torch.tensor(list(among.values()), device=x.device)
        return [names[best] for best in logits[:, -1].index_select(1, ids).argmax(1).tolist()]

    def _no_speech(self, logits: Tensor) -> list[float]:
        if self.no_speech < 0:
            return [0.0] * len(logits)
        return logits.float().softmax(-1)[:, self.no_speech].tolist()

    def _up_to_end(self, tokens: list[int]) -> tuple[list[int], bool]:
        """The text, and whether it has an end."""
        ended = self.end in tokens
        return tokens[: tokens.index(self.end)] if ended else tokens, ended


def _score(found: Generated) -> float:
    return found.log_prob / max(len(found.tokens), 1)


def _choose(logits: Tensor, temperature: float, generator: Optional[torch.Generator]) -> Tensor:
    """(rows, vocabulary) -> (rows,)."""
    if temperature == 0:
        return logits.max(1).indices  # on the CPU faster than argmax
    return torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]


class _Encoded(EnsembleModel):
    """What the generator of fairseq takes for a model: the speech is encoded, the prefix forced, the rules kept."""

    def __init__(self, models, encoder_out, prefix: Sequence[int], rules: TokenRules, max_tokens: int):
        super().__init__(models)
        self.encoder_out, self.rules, self.max_tokens = encoder_out, rules, max_tokens
        device = encoder_out["encoder_out"][0].device
        self.before = torch.tensor(prefix[:-1], dtype=torch.long, device=device)

    def forward_encoder(self, net_input):
        return [self.encoder_out]

    def forward_decoder(self, tokens: Tensor, encoder_outs, incremental_states, temperature: float = 1.0):
        prompted = torch.cat([self.before.expand(len(tokens), -1), tokens], dim=1)
        log_probs, attention = super().forward_decoder(
            prompted, encoder_outs, incremental_states, temperature
        )
        if tokens.size(1) > self.max_tokens:  # fairseq forces the end, which the rules may not allow
            return log_probs, attention
        log_probs = self.rules.apply(log_probs.float(), tokens[:, 1:])
        return log_probs - log_probs.logsumexp(1, keepdim=True), attention

    def max_decoder_positions(self) -> int:
        return super().max_decoder_positions() - len(self.before)


class _Search(SequenceGenerator):
    """Begins with the last token of the prefix."""

    first_token: int

    def _generate(self, sample, prefix_tokens=None, constraints=None, bos_token: Optional[int] = None):
        return super()._generate(sample, prefix_tokens, constraints, bos_token=self.first_token)
