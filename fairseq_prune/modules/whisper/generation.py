"""Generating with Whisper in fairseq: a forced prefix, read at once, and tokens that are never written."""

from collections.abc import Sequence
from typing import Optional

import torch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

SPECIAL_TOKENS = "startoftranscript translate transcribe startoflm startofprev nocaptions nospeech".split()
BRACKETS_AND_SIGNS = '"#()*+/:;<=>@[\\]^_`{|}~「」『』'
SERIES = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()
NOTES = "♩♪♫♬♭♮♯"
NEVER_ALONE = (" -", " '")  # within words they are speech


def suppressed_tokens(tokenizer) -> tuple[list[int], list[int]]:
    """What published Whisper never writes: special tokens, and signs for what is not speech.

    The published lists of ids follow from this rule and the tokenizer; after pruning of the vocabulary, from its
    own.

    Args:
        tokenizer: `data.bpe_tokenizer.ByteLevelBPE`.

    Returns:
        Sorted ids that no place of a text may have; ids that its first place may not have (a space, the end).
    """
    never = {index for name, index in tokenizer.special.items() if name[2:-2] in SPECIAL_TOKENS}
    for text in (*BRACKETS_AND_SIGNS, *SERIES, *NOTES):
        for tokens in (tokenizer.encode(text), tokenizer.encode(f" {text}")):
            if len(tokens) == 1 or text in NOTES:
                never.add(tokens[0])
    never.update(tokenizer.encode(text)[0] for text in NEVER_ALONE)
    space = tokenizer.encode(" ")
    return sorted(never), [*(space if len(space) == 1 else []), tokenizer.dictionary.eos()]


class PromptedEnsemble(EnsembleModel):
    """Puts the forced prefix before the tokens of a generator, which begin with its last token.

    The decoder reads it in one step, and neither scores nor lengths of hypotheses count it.
    """

    def __init__(
        self, models, prefix: Sequence[int], suppressed: Sequence[int], suppressed_first: Sequence[int]
    ):
        super().__init__(models)
        self.register_buffer("before", torch.tensor(prefix[:-1], dtype=torch.long), persistent=False)
        self.register_buffer("suppressed", torch.tensor(suppressed, dtype=torch.long), persistent=False)
        self.register_buffer(
            "suppressed_first", torch.tensor(suppressed_first, dtype=torch.long), persistent=False
        )

    def forward_encoder(self, net_input: dict[str, Tensor]):
        # fairseq moves models, but not a generator that has been built of them
        self.to(net_input["src_tokens"].device)
        return super().forward_encoder(net_input)

    def forward_decoder(self, tokens: Tensor, encoder_outs, incremental_states, temperature: float = 1.0):
        """Log-probabilities (rows, vocabulary) of what follows ``tokens`` (rows, tokens)."""
        prompted = torch.cat([self.before.expand(len(tokens), -1), tokens], dim=1)
        log_probs, attention = super().forward_decoder(
            prompted, encoder_outs, incremental_states, temperature
        )
        log_probs[:, self.suppressed] = -torch.inf
        if tokens.size(1) == 1:
            log_probs[:, self.suppressed_first] = -torch.inf
        return log_probs, attention

    def max_decoder_positions(self) -> int:
        return super().max_decoder_positions() - len(self.before)


class WhisperGenerator(SequenceGenerator):
    """fairseq's generator for Whisper; hypotheses are the text and the end, without the forced prefix.

    Args:
        prefix: ids of the forced prefix, as of ``ByteLevelBPE.prefix``.
        suppressed, suppressed_first: ids, as of `suppressed_tokens`.
        options: of fairseq's generator.
    """

    def __init__(
        self,
        models,
        tgt_dict,
        prefix: Sequence[int],
        suppressed: Sequence[int] = (),
        suppressed_first: Sequence[int] = (),
        **options,
    ):
        self.first_token = prefix[-1]
        super().__init__(PromptedEnsemble(models, prefix, suppressed, suppressed_first), tgt_dict, **options)

    def _generate(self, sample, prefix_tokens=None, constraints=None, bos_token: Optional[int] = None):
        # what fairseq's tasks would have it begin with, the end of a sentence, Whisper does not know as a beginning
        return super()._generate(sample, prefix_tokens, constraints, bos_token=self.first_token)
