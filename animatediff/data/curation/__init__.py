"""Raw collections to captioned shots: the plan, parts, selection, captions and shards of the curate job."""
