"""What catalogs say as prompts: texts, texts by frame, and the syntax that they are written in."""
