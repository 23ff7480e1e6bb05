#!/usr/bin/env python3
"""The Free Spoken Digit Dataset for speech translation or recognition. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.digits")
