"""Files of networks that control what is shown."""
