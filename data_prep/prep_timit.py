#!/usr/bin/env python3
"""Prepares TIMIT for recognition of phones. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.timit")
