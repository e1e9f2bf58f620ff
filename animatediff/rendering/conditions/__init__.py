"""What leads clips beside their prompts: pictures and videos, and the networks that read them."""
