#!/usr/bin/env python3
"""Picovoice's coffee orders for the task spoken_language_understanding. See --help."""

from fairseq_prune.command_line import enter

if __name__ == "__main__":
    enter("fairseq_prune.preparation.picovoice")
