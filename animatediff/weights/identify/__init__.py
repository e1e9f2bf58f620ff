"""What a weights file is, told from its content."""
