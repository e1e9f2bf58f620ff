"""What is measured on clips, and which of them are duplicates."""
