"""A video's bytes to clips, by decoders that run in processes of their own."""
