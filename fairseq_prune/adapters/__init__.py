"""Other hosts of the algorithms; nothing here needs fairseq."""
