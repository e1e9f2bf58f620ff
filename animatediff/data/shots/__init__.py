"""Shots: uninterrupted takes between the borders of a long video, found while it is decoded once."""
