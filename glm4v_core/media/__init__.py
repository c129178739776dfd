"""What comes in: limits, sources, decoding, pixels, images, pages and files."""
