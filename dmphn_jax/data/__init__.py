"""Pairs of blurry and sharp images: where they come from and how they reach the device."""
