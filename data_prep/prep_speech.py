#!/usr/bin/env python3
"""Prepares any corpus that a table describes, for any task. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.speech")
