"""Images as prompts: IP-Adapters, and the encoder that reads the pictures for them."""
