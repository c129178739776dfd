"""What both local engines read from a checkpoint: files, image sizes, tokens."""
