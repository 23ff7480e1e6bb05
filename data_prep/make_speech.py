#!/usr/bin/env python3
"""Speaks a folder of texts with espeak-ng: a data folder for training. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.spoken_texts")
