"""Synthetic scenes: textures are painted, a camera and objects move, steps are averaged."""
