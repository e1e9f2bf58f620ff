"""Clips: which frames of a video, at which size, and how its picture travels."""
