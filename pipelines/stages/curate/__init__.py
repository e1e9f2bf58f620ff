"""The curate job: raw videos to captioned shots."""
