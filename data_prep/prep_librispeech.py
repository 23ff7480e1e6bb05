#!/usr/bin/env python3
"""Prepares LibriSpeech, or any corpus in its layout, for recognition. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.librispeech")
