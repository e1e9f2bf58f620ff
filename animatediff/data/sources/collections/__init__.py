"""Collections without a table: folders and tars, with captions beside the videos."""
