"""Files of the networks that control what a clip shows."""
