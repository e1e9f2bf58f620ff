"""Shots as video files of their own, exact to the frame, whatever the source's container and codec."""

from animatediff.data.shots.copies.copy import copy_shot

__all__ = ["copy_shot"]
