#!/usr/bin/env python3
"""Lists folders of audio for training without text. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.audio")
