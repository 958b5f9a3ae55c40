"""Running networks over images."""
