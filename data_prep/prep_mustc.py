#!/usr/bin/env python3
"""Prepares MuST-C, or any corpus in its layout, for the task speech_translation. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.mustc")
