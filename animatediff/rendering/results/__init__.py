"""What became of a catalog's items: the ledger, the table, the gallery."""
