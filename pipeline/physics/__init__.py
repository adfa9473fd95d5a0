"""What the world does to an image: linear operators, masks, noise."""
