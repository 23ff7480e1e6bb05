#!/usr/bin/env python3
"""Copies the utterances of manifests into noise and rooms. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.noisy")
