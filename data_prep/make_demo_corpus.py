#!/usr/bin/env python3
"""Makes the demo corpus, spoken by espeak-ng, in the layout of MuST-C. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.demo_corpus")
