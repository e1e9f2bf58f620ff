"""What a run can train: one file a recipe, and `table`, which names them all."""
