"""Files of the networks that control a clip beside its text."""
