"""Tables of videos: CSV, TSV, JSONL and Parquet."""
