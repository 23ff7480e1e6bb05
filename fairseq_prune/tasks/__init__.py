"""Importing this package registers everything in it, and in its neighbours, with fairseq."""

from fairseq_prune.registration import register

register()
