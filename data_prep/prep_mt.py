#!/usr/bin/env python3
"""Turns the texts of a data directory into binary data for fairseq's task translation. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.mt")
