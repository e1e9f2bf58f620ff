"""What can be found wrong with a catalog before anything is rendered."""
