"""Videos to clips to shards: sources, decoders, plan, schema, manifest, loader."""
